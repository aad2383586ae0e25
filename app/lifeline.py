"""``python -m app.lifeline [--import MODULE] MODULE ARG…``: run a module as a child that ends with its parent.

The parent holds the other end of standard input. The child imports, waits for a line, runs the module, and sends itself
SIGTERM when it reads the end of the file, that is when the parent has died, however it died. (A parent-death signal
would not do: it fires when the parent's *thread* ends, and it is Linux only.)
"""

import importlib
import os
import runpy
import signal
import sys
import threading
import time

GRACE = 40.0
"""Seconds for an orderly end after the parent's death."""


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run ``MODULE`` as ``__main__`` once the parent says go."""
    while arguments[0] == "--import":
        importlib.import_module(arguments[1])
        arguments = arguments[2:]
    if not os.read(0, 1):
        sys.exit(1)
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
