"""The gymnasium adapter: the only code that knows about autoreset and truncation."""

from collections.abc import Sequence

from app.schemas import environments
from app.schemas.experiment import EnvironmentSpec
from worker.rl.envs.atari import TRAINING_ONLY
from worker.rl.envs.cartpole import CartPole
from worker.rl.envs.spaces import EnvSpec
from worker.rl.envs.stacking import FrameStack
from worker.rl.envs.vector import LoopVectorEnv, Step, VectorEnv
from worker.rl.errors import UnsupportedSpace

__all__ = ["EnvSpec", "Step", "VectorEnv", "make"]


def make(environment: EnvironmentSpec, seeds: Sequence[int], num_envs: int, *, purpose: str = "train") -> VectorEnv:
    """``num_envs`` copies for each run seed, by the fastest backend that fits. ``purpose`` keeps seeds apart.

    Raises:
        EnvironmentFailure: when the environment can't be made.
        UnsupportedSpace: when no agent could act in it.
    """
    entry = environments.catalogue().get(environment.id)
    frames = environment.frame_stack or (entry.frame_stack if entry else 1)
    env = _backend(environment, seeds, num_envs, purpose)
    if frames == 1:
        return env
    try:
        return FrameStack(env, frames)
    except UnsupportedSpace:
        env.close()
        raise


def _backend(environment: EnvironmentSpec, seeds: Sequence[int], num_envs: int, purpose: str) -> VectorEnv:
    if environment.id == "CartPole-v1" and environment.kwargs.keys() <= {"sutton_barto_reward"}:
        punish = environment.kwargs.get("sutton_barto_reward") is True
        return CartPole(seeds, num_envs, purpose=purpose, sutton_barto_reward=punish)
    kwargs = dict(environment.kwargs)
    if environment.id.startswith("ALE/") and purpose != "train":
        kwargs |= TRAINING_ONLY
    return LoopVectorEnv(environment.id, kwargs, seeds, num_envs, purpose=purpose)
