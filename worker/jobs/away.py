"""Telling what passes (a database that is away, a disk that is full) from a mistake."""

import errno

from sqlalchemy import exc

DATABASE_AWAY = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)
"""Refused, lost or exhausted connections, a locked file, a server that starts up, a transaction that was ended because
its process was frozen: try again later."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""Of an ``OSError``: the disk, or this user's share of it, is full."""
