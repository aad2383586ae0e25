"""Telling a database that is away for a while from a mistake in a statement."""

from sqlalchemy import exc

DATABASE_AWAY = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)
"""Refused, lost or exhausted connections, a locked file, a server that starts up, a transaction that was ended because
its process was frozen: try again later."""
