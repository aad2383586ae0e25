"""The gymnasium adapter: the only code that knows about autoreset and truncation."""

from collections.abc import Sequence

from app.schemas.experiment import EnvironmentSpec
from worker.rl.envs.cartpole import CartPole
from worker.rl.envs.spaces import EnvSpec
from worker.rl.envs.vector import LoopVectorEnv, Step, VectorEnv

__all__ = ["EnvSpec", "Step", "VectorEnv", "make"]


def make(environment: EnvironmentSpec, seeds: Sequence[int], num_envs: int, *, purpose: str = "train") -> VectorEnv:
    """``num_envs`` copies for each run seed, by the fastest backend that fits. ``purpose`` keeps seeds apart.

    Raises:
        EnvironmentFailure: when the environment can't be made.
        UnsupportedSpace: when no agent could act in it.
    """
    if environment.id == "CartPole-v1" and environment.kwargs.keys() <= {"sutton_barto_reward"}:
        punish = environment.kwargs.get("sutton_barto_reward") is True
        return CartPole(seeds, num_envs, purpose=purpose, sutton_barto_reward=punish)
    return LoopVectorEnv(environment.id, dict(environment.kwargs), seeds, num_envs, purpose=purpose)
