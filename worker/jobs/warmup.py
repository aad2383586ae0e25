"""What a spare does before its job: everything slow that does not depend on it."""

from app.db import engine  # noqa: F401
from app.db.repositories import training  # noqa: F401
from worker.jobs import training as _training  # noqa: F401


def run() -> None:
    """Load the libraries and train for a moment on the CPU; no global generator is touched, nor a GPU."""
