"""A policy that is somewhere else, as a function."""

from collections.abc import Callable, Sequence
from typing import Any


class RemotePolicy:
    """Calls a service for every action: ``action = policy(observation)``.

    Observations are lists of numbers or anything with ``tolist()``, such as arrays.
    """

    def __init__(self, act: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._act = act

    def __call__(self, observation: Any) -> Any:
        """The action for one observation."""
        return self._act({"observation": _plain(observation)})["action"]

    def batch(self, observations: Sequence[Any]) -> list[Any]:
        """One action per observation, in one request."""
        return list(self._act({"observations": [_plain(o) for o in observations]})["actions"])


def _plain(observation: Any) -> Any:
    return observation.tolist() if hasattr(observation, "tolist") else observation
