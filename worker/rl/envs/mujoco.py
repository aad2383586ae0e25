"""What is special about MuJoCo: it warns into a file of the working directory, and it lets other threads run."""

import logging
from functools import cache

import gymnasium

log = logging.getLogger(__name__)


def is_mujoco(env_id: str) -> bool:
    """Whether gymnasium's own MuJoCo code is behind this id."""
    return env_id in gymnasium.registry and "mujoco" in str(gymnasium.registry[env_id].entry_point)


@cache
def listen() -> None:
    """Log each of MuJoCo's warnings once, instead of its writing them to ``MUJOCO_LOG.TXT`` and the terminal."""
    import mujoco

    seen: set[str] = set()

    def hear(message: str) -> None:
        kind = message[:40]
        if kind not in seen:
            seen.add(kind)
            log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message.strip())

    mujoco.set_mju_user_warning(hear)
