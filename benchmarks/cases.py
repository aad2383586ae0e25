"""What is learned for the documentation: tasks, the methods set to them, and the pages that show how it went."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Task:
    """An environment, and how what was learned there is judged and shown."""

    name: str
    environment: str
    training: Mapping[str, int]
    """When to evaluate, and on how many episodes."""
    judged: Literal["best", "final"] = "best"
    """The checkpoint that is played again."""
    episodes: int = 100
    """Fresh ones that it is played for."""
    exact: bool = False
    """Bars are to be met, not only reached."""
    lowest: float | None = None
    """Return at which the picture ends."""
    logarithmic: bool = False
    """Whether env steps are, in the picture."""


@dataclass(frozen=True)
class Case:
    """A method on a task: one experiment."""

    task: Task
    method: str
    env_steps: int
    algorithm: Mapping[str, Any]
    bar: float | None = None
    """The mean return to be reached on fresh episodes."""
    seeds: int = 5
    resources: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the case, of its experiment and of its file."""
        return f"{self.task.name}-{self.method}"

    @property
    def spec(self) -> dict[str, Any]:
        """What is posted."""
        return {
            "name": self.name,
            "environment": {"id": self.task.environment},
            "algorithm": dict(self.algorithm),
            "training": {"total_env_steps": self.env_steps, **self.task.training},
            "seeds": list(range(self.seeds)),
            "resources": dict(self.resources),
        }

    def reached(self, value: float) -> bool:
        """Whether a return is what the bar asks for."""
        return self.bar is not None and (value == self.bar if self.task.exact else value >= self.bar)


class Page(NamedTuple):
    """The methods that a page of ``docs/algorithms`` is about, and those that its pictures show beside them."""

    own: tuple[str, ...]
    beside: tuple[str, ...] = ()


DQN_FAMILY = ("dqn", "double_dqn", "dueling_dqn", "c51", "qr_dqn", "iqn", "rainbow")
PAGES = {
    "dqn": Page(DQN_FAMILY, beside=("pqn", "ppo")),
    "double_dqn": Page(("double_dqn",), beside=("dqn",)),
    "dueling_dqn": Page(("dueling_dqn",), beside=("dqn",)),
    "prioritized_replay": Page(("double_dqn_prioritized",), beside=("pqn", "ppo")),
    "n_step": Page(("dqn_n_step",), beside=("dqn", "rainbow")),
    "noisy_nets": Page(("dqn_noisy",), beside=("dqn", "rainbow")),
    "c51": Page(("c51",), beside=("dqn",)),
    "qr_dqn": Page(("qr_dqn",), beside=("dqn", "c51")),
    "iqn": Page(("iqn",), beside=("dqn", "qr_dqn", "rainbow")),
    "rainbow": Page(("rainbow",), beside=("dqn", "c51", "iqn")),
    "pqn": Page(("pqn",), beside=("dqn", "double_dqn_prioritized", "ppo")),
    "q_learning": Page(("q_learning",), beside=("sarsa", "dyna_q")),
    "sarsa": Page(("sarsa", "expected_sarsa"), beside=("q_learning",)),
    "dyna_q": Page(("dyna_q", "dyna_q_without_planning"), beside=("q_learning",)),
    "ppo": Page(("ppo",), beside=("dqn", "double_dqn_prioritized", "pqn", "sac")),
    "sac": Page(("sac",), beside=("ppo",)),
}
"""A page has a picture of every task that one of its own methods was set to."""

_CLIFF = Task(
    "cliffwalking",
    "CliffWalking-v1",
    {"evaluate_every": 1_000, "evaluation_episodes": 10},
    judged="final",
    exact=True,
    lowest=-60.0,
)
_SHORT_CLIFF = Task(
    "cliffwalking_short",
    "CliffWalking-v1",
    {"evaluate_every": 50, "evaluation_episodes": 10},
    judged="final",
    exact=True,
    lowest=-60.0,
)
_TAXI = Task("taxi", "Taxi-v4", {"evaluation_episodes": 100}, episodes=1_000, lowest=-50.0)
_LAKE = Task("frozenlake", "FrozenLake-v1", {"evaluation_episodes": 100}, episodes=1_000)
_CARTPOLE = Task("cartpole", "CartPole-v1", {"evaluation_episodes": 20})
_ACROBOT = Task("acrobot", "Acrobot-v1", {"evaluation_episodes": 20})
_MOUNTAIN_CAR = Task("mountaincar", "MountainCar-v0", {"evaluation_episodes": 20})
_LANDER = Task("lunarlander", "LunarLander-v3", {"evaluation_episodes": 20}, lowest=-400.0)
_PENDULUM = Task("pendulum", "Pendulum-v1", {"evaluation_episodes": 20}, logarithmic=True)
_BREAKOUT = Task("breakout", "MinAtar/Breakout-v1", {"evaluate_every": 25_000, "evaluation_episodes": 20})

_BREAKOUT_NUMBERS = {
    "learning_rate": 2.5e-4,
    "batch_size": 32,
    "buffer_size": 100_000,
    "learning_starts": 5_000,
    "train_every": 4,
    "target_update_every": 250,
}
_EPSILON = {"epsilon_start": 1.0, "epsilon_end": 0.05, "epsilon_fraction": 0.2}


def _tuned(
    task: Task, name: str, env_steps: int, bar: float, *, seeds: int = 5, method: str = "", **fields: Any
) -> Case:
    """With the preset; ``fields`` beside it give the method a name of its own."""
    return Case(task, method or name, env_steps, {"name": name, "preset": "auto", **fields}, bar, seeds)


def _breakout(name: str, **fields: Any) -> Case:
    """The same numbers for all; seeds in one pack."""
    algorithm = {"name": name, **_BREAKOUT_NUMBERS, **fields}
    return Case(_BREAKOUT, name, 500_000, algorithm, resources={"pack": 5})


_ALL = [
    _tuned(_CLIFF, "q_learning", 30_000, -13.0, seeds=10),
    _tuned(_CLIFF, "sarsa", 30_000, -17.0, seeds=10),
    _tuned(_CLIFF, "sarsa", 30_000, -15.0, seeds=10, method="expected_sarsa", expected=True),
    _tuned(_SHORT_CLIFF, "dyna_q", 600, -13.0, seeds=10),
    _tuned(_SHORT_CLIFF, "dyna_q", 600, -13.0, seeds=10, method="dyna_q_without_planning", planning_steps=0),
    _tuned(_TAXI, "q_learning", 200_000, 7.0, seeds=10),
    _tuned(_TAXI, "dyna_q", 30_000, 7.0, seeds=10),
    _tuned(_LAKE, "q_learning", 150_000, 0.68, seeds=10),
    *(_tuned(_CARTPOLE, name, 100_000, 475.0) for name in (*DQN_FAMILY, "pqn", "ppo")),
    _tuned(_CARTPOLE, "dqn", 100_000, 475.0, method="dqn_n_step", n_step=3),
    _tuned(_CARTPOLE, "dqn", 100_000, 475.0, method="dqn_noisy", noisy=True),
    *(_tuned(_ACROBOT, name, 100_000, -100.0) for name in DQN_FAMILY),
    _tuned(_ACROBOT, "pqn", 200_000, -100.0),
    _tuned(_ACROBOT, "ppo", 200_000, -100.0),
    _tuned(_MOUNTAIN_CAR, "dqn", 120_000, -110.0),
    _tuned(_LANDER, "double_dqn", 300_000, 200.0, method="double_dqn_prioritized", prioritized=True),
    _tuned(_LANDER, "pqn", 500_000, 200.0),
    _tuned(_LANDER, "ppo", 300_000, 200.0),
    _tuned(_PENDULUM, "sac", 15_000, -200.0),
    _tuned(_PENDULUM, "ppo", 200_000, -200.0),
    _breakout("dqn", **_EPSILON),
    _breakout("iqn", **_EPSILON),
    _breakout("rainbow", v_min=0.0, v_max=20.0),
]
CASES = {case.name: case for case in _ALL}
"""By name, in the order in which they are posted and shown."""
