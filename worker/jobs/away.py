"""Telling a database that is away for a while from a mistake in a statement."""

from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

DATABASE_AWAY = (OperationalError, InterfaceError, TimeoutError)
"""Refused, lost or exhausted connections, a locked file, a server that starts up: try again later."""
