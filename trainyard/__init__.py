"""What a user of a Trainyard service imports: an HTTP client and policies that answer over HTTP."""

from trainyard.client import Client, Problem, ServiceUnreachable, TrainyardError
from trainyard.policy import RemotePolicy
from trainyard.sse import Event

__all__ = ["Client", "Event", "Problem", "RemotePolicy", "ServiceUnreachable", "TrainyardError"]
