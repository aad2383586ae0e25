"""One training, timed: ``python benchmarks/trainings.py LIBRARY JSON``, the JSON an :class:`Order`, prints a
:class:`Timing`.

Run by ``peers.py`` with the interpreter that has the library, on as many cores as threads; only what is measured is
imported. The clocks run between two env steps of the training: what is built, traced or compiled before the first of
them, and what is evaluated or saved after the second, is left out everywhere.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Order:
    """What to train, in no library's own words."""

    algorithm: str
    environment: str
    settings: dict[str, Any]
    """Hyper-parameters under our names, without what only we can choose."""
    warm_up: int
    """Env steps before the clocks start."""
    env_steps: int
    """Env steps per seed at which they stop."""
    num_envs: int = 1
    seeds: int = 1
    """Trained together in one process, by us alone."""
    threads: int = 1
    cores: tuple[int, ...] = ()
    """Where to run; empty where the system can't say."""


@dataclass(frozen=True)
class Timing:
    """Seconds between the two env steps, the env steps of all seeds in that time, and the process's peak memory."""

    env_steps: int
    wall: float
    processor: float
    mebibytes: float


@dataclass
class Stopwatch:
    """Told after every env step, or every rollout, how many have been taken."""

    order: Order
    began: tuple[float, float] | None = field(default=None, init=False)
    ended: tuple[float, float] | None = field(default=None, init=False)

    def reached(self, env_step: int) -> None:
        if self.began is None and env_step >= self.order.warm_up:
            self.began = time.perf_counter(), time.process_time()
        elif self.ended is None and env_step >= self.order.env_steps:
            self.ended = time.perf_counter(), time.process_time()

    def timing(self) -> Timing:
        assert self.began and self.ended, "the training ended too early"
        wall, processor = (end - start for start, end in zip(self.began, self.ended, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return Timing(self.order.seeds * (self.order.env_steps - self.order.warm_up), wall, processor, peak)


def trainyard(order: Order, watch: Stopwatch) -> None:
    """The driver that the service calls."""
    sys.path.insert(0, str(ROOT))
    import torch

    from app.schemas.experiment import ExperimentSpec, resolve
    from worker.rl import memory
    from worker.rl.drivers import train
    from worker.rl.reporter import MemoryReporter

    class Reporter(MemoryReporter):
        def progress(self, env_step: int) -> None:
            super().progress(env_step)
            watch.reached(env_step)

    torch.set_num_threads(order.threads)
    memory.keep_freed()  # as a trainer does
    seeds = list(range(order.seeds))
    train(resolve(ExperimentSpec.model_validate(experiment(order))), seeds, Reporter(seeds))


def experiment(order: Order) -> dict[str, Any]:
    """An order as the service takes it, evaluated and saved only at its end."""
    return {
        "environment": {"id": order.environment, "num_envs": order.num_envs},
        "algorithm": {"name": order.algorithm, **order.settings},
        "training": {
            "total_env_steps": order.env_steps,
            "evaluation_episodes": 1,
            "evaluate_every": order.env_steps,
            "checkpoint_every": order.env_steps,
        },
        "seeds": list(range(order.seeds)),
    }


def stable_baselines3(order: Order, watch: Stopwatch) -> None:
    """``learn`` of Stable-Baselines3."""
    import stable_baselines3
    import torch

    torch.set_num_threads(order.threads)
    _learn(stable_baselines3, order, watch)


def sbx(order: Order, watch: Stopwatch) -> None:
    """``learn`` of SBX, the same in JAX."""
    import sbx

    _learn(sbx, order, watch)


def _learn(library: Any, order: Order, watch: Stopwatch) -> None:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Callback(BaseCallback):
        def _on_step(self) -> bool:
            watch.reached(self.num_timesteps)
            return True

    given = order.settings
    names = {
        "num_steps": "n_steps",
        "epochs": "n_epochs",
        "train_every": "train_freq",
        "target_update_every": "target_update_interval",
        "epsilon_start": "exploration_initial_eps",
        "epsilon_end": "exploration_final_eps",
        "epsilon_fraction": "exploration_fraction",
    }
    own = {"hidden_sizes", "num_minibatches", "loss"}  # both take the Huber loss in DQN, and no other
    settings = {names.get(name, name): value for name, value in given.items() if name not in own}
    if "num_minibatches" in given:
        settings["batch_size"] = order.num_envs * given["num_steps"] // given["num_minibatches"]
    model = getattr(library, order.algorithm.upper())(
        "MlpPolicy",
        make_vec_env(order.environment, n_envs=order.num_envs, seed=0),
        policy_kwargs={"net_arch": given["hidden_sizes"]},
        seed=0,
        device="cpu",
        **settings,
    )
    model.learn(order.env_steps, callback=Callback(), log_interval=None)


def tianshou(order: Order, watch: Stopwatch) -> None:
    """``run_training`` of Tianshou's DQN or C51 with its off-policy trainer, one env step and one update per step."""
    import gymnasium
    import numpy as np
    import torch
    from tianshou.algorithm.modelfree.c51 import C51, C51Policy
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    torch.set_num_threads(order.threads)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - what Tianshou draws from
    given = order.settings
    environments = DummyVectorEnv([lambda: gymnasium.make(order.environment)] * order.num_envs)
    environments.seed(0)
    space = environments.action_space[0]
    shapes = {"state_shape": environments.observation_space[0].shape, "action_shape": space.n}
    training = {
        "optim": AdamOptimizerFactory(lr=given["learning_rate"]),
        "gamma": given["gamma"],
        "target_update_freq": given["target_update_every"],
    }
    algorithm: DQN[Any] | C51
    if order.algorithm == "c51":
        support = {"num_atoms": given["num_atoms"], "v_min": given["v_min"], "v_max": given["v_max"]}
        net = Net(**shapes, hidden_sizes=given["hidden_sizes"], softmax=True, num_atoms=given["num_atoms"])
        algorithm = C51(policy=C51Policy(model=net, action_space=space, **support), **training)
    else:
        net = Net(**shapes, hidden_sizes=given["hidden_sizes"])
        policy = DiscreteQLearningPolicy(model=net, action_space=space)
        algorithm = DQN(policy=policy, is_double=False, huber_loss_delta=1.0, **training)

    def begin_step(epoch: int, env_step: int) -> None:
        watch.reached(env_step)
        share = min(1.0, env_step / (given["epsilon_fraction"] * order.env_steps))
        start, end = given["epsilon_start"], given["epsilon_end"]
        algorithm.policy.set_eps_training(start + share * (end - start))

    buffer = VectorReplayBuffer(given["buffer_size"], order.num_envs)
    collector = Collector[CollectStats](algorithm, environments, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=given["learning_starts"], random=True)
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=order.env_steps + 1,  # the clock is read as a step begins
            collection_step_num_env_steps=given["train_every"],
            update_step_num_gradient_steps_per_sample=given["gradient_steps"] / given["train_every"],
            batch_size=given["batch_size"],
            training_fn=begin_step,
            verbose=False,
            show_progress=False,
        )
    )


LIBRARIES: dict[str, Callable[[Order, Stopwatch], None]] = {
    "Trainyard": trainyard,
    "Stable-Baselines3": stable_baselines3,
    "SBX": sbx,
    "Tianshou": tianshou,
}


def main() -> None:
    library, text = sys.argv[1:]
    order = Order(**json.loads(text))
    if order.cores:
        os.sched_setaffinity(0, order.cores)
    watch = Stopwatch(order)
    LIBRARIES[library](order, watch)
    print(json.dumps(asdict(watch.timing())))


if __name__ == "__main__":
    main()
