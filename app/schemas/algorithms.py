"""One frozen config per algorithm and one union discriminated on ``name``.

Adding an algorithm touches this file (a config class, listed in ``AnyAlgorithm``) and one module in
``worker/rl/algorithms/`` named by the class's ``module``. DQN, which has rules of its own, has a module for its config.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from app.schemas.config import Activation, AlgorithmConfig, LearningRate, Probability, Schedule, Sizes
from app.schemas.dqn import DQN as DQN
from app.schemas.environments import EnvironmentEntry, kind


class PPO(AlgorithmConfig):
    """Proximal policy optimisation, clipped (Schulman et al. 2017, arXiv 1707.06347)."""

    module: ClassVar[str] = "ppo"
    summary: ClassVar[str] = "Proximal policy optimisation with a clipped surrogate objective and GAE."
    paper: ClassVar[str] = "https://arxiv.org/abs/1707.06347"
    action_spaces: ClassVar[tuple[str, ...]] = ("discrete", "multi_discrete", "vector")
    default_num_envs: ClassVar[int] = 8

    name: Literal["ppo"] = "ppo"
    hidden_sizes: Sizes = (64, 64)
    """Width of each hidden layer of the networks."""
    activation: Activation = "tanh"
    learning_rate: LearningRate = 3e-4
    learning_rate_schedule: Schedule = "constant"
    """``linear`` goes to zero over the run's env steps."""
    num_steps: int = Field(128, ge=1, le=65536)
    """Env steps per environment and rollout."""
    epochs: int = Field(4, ge=1, le=100)
    num_minibatches: int = Field(4, ge=1, le=1024)
    gae_lambda: Probability = 0.95
    clip_range: float = Field(0.2, gt=0, le=10)
    clip_range_schedule: Schedule = "constant"
    clip_range_value: float | None = Field(None, gt=0, le=1e6)
    """Clip of the value function's change; None = off (no gain in Andrychowicz et al. 2020)."""
    entropy_coefficient: float = Field(0.0, ge=0, le=10)
    value_coefficient: float = Field(0.5, ge=0, le=100)
    max_grad_norm: float = Field(0.5, gt=0)
    normalize_advantage: bool = True
    target_kl: float | None = Field(None, gt=0)
    """Stops the epochs of an update once the approximate KL exceeds 1.5 times this; per run, also in a pack."""
    normalize_observation: bool = False
    normalize_reward: bool = False
    log_std_init: float = Field(0.0, ge=-20, le=2)
    """Initial log standard deviation of a continuous policy (state-independent)."""


class SAC(AlgorithmConfig):
    """Soft actor–critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

    module: ClassVar[str] = "sac"
    summary: ClassVar[str] = "Soft actor-critic with twin critics and an automatically tuned temperature."
    paper: ClassVar[str] = "https://arxiv.org/abs/1812.05905"
    action_spaces: ClassVar[tuple[str, ...]] = ("vector",)
    n_step: ClassVar[int] = 1
    prioritized: ClassVar[bool] = False
    hidden_after_torso: ClassVar[bool] = True

    name: Literal["sac"] = "sac"
    hidden_sizes: Sizes = (256, 256)
    activation: Activation = "relu"
    learning_rate: LearningRate = 3e-4
    """Of the actor and the temperature, and of the critics unless ``critic_learning_rate`` is given."""
    critic_learning_rate: LearningRate | None = None
    batch_size: int = Field(256, ge=1, le=65536)
    buffer_size: int = Field(1_000_000, ge=1, le=10_000_000)
    """Transitions kept per run."""
    learning_starts: int = Field(1_000, ge=0)
    """Env steps of random actions before the first update."""
    train_every: int = Field(1, ge=1, le=1_000_000)
    gradient_steps: int = Field(1, ge=1, le=1_000_000)
    tau: float = Field(0.005, gt=0, le=1)
    """Polyak share of the online critics at each update."""
    initial_temperature: float = Field(1.0, gt=0, le=100)
    fixed_temperature: bool = False
    target_entropy: float | None = Field(None, ge=-1e6, le=1e6)
    """None = minus the number of action dimensions (entropy in the normalised [-1, 1] action space)."""


class PQN(AlgorithmConfig):
    """Parallelised Q-network (Gallici et al. 2025, arXiv 2407.04811): Q-learning on rollouts of many environments."""

    module: ClassVar[str] = "pqn"
    summary: ClassVar[str] = "Q-learning with layer norm and Q(lambda), without a replay or a target network."
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.04811"
    action_spaces: ClassVar[tuple[str, ...]] = ("discrete",)
    default_num_envs: ClassVar[int] = 8

    name: Literal["pqn"] = "pqn"
    hidden_sizes: Sizes = (128, 128)
    """Width of each hidden layer; layer norm precedes its activation."""
    activation: Activation = "relu"
    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: Schedule = "linear"
    """``linear`` goes to zero over the run's env steps."""
    num_steps: int = Field(64, ge=1, le=65536)
    """Env steps per environment and rollout."""
    epochs: int = Field(4, ge=1, le=100)
    num_minibatches: int = Field(4, ge=1, le=1024)
    q_lambda: Probability = 0.9
    """Decay of the traces: 0 bootstraps after one step, 1 where the episode or the rollout ends."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    epsilon_start: Probability = 1.0
    epsilon_end: Probability = 0.05
    epsilon_fraction: float = Field(0.3, gt=0, le=1)
    """Share of the run's env steps over which epsilon falls linearly."""
    evaluation_epsilon: Probability = 0.0


class Tabular(AlgorithmConfig):
    """A table of action values, learned from one transition at a time.

    Q-learning (Watkins 1989), SARSA (Rummery & Niranjan 1994) and Dyna-Q (Sutton 1990).
    """

    module: ClassVar[str] = "tabular"
    summary: ClassVar[str] = "A table of action values learned by Q-learning, SARSA or, with a model, Dyna-Q."
    paper: ClassVar[str] = "https://mitpress.mit.edu/9780262039246/"
    observation_spaces: ClassVar[tuple[str, ...]] = ("discrete",)
    action_spaces: ClassVar[tuple[str, ...]] = ("discrete",)

    name: Literal["q_learning", "sarsa", "dyna_q"] = "q_learning"
    planning_steps: int = Field(default_factory=lambda given: 10 if given.get("name") == "dyna_q" else 0, ge=0, le=1000)
    """Dyna-Q only: updates per env step from remembered transitions; 10 unless given. 0 is Q-learning."""
    expected: bool = False
    """SARSA only: bootstrap from the mean over the policy's actions (expected SARSA), not from the one taken next."""
    initial_value: float = Field(0.0, ge=-1e9, le=1e9)
    """Of every action in every state; above what can be earned, it makes the agent try everything."""
    learning_rate: float = Field(0.5, gt=0, le=1)
    learning_rate_schedule: Literal["constant", "linear", "visits"] = "constant"
    """``linear`` falls to the floor over the run's env steps; ``visits`` divides by N(s, a) ** ``visit_exponent``."""
    learning_rate_floor: Probability = 0.0
    """The smallest learning rate of a schedule that falls."""
    visit_exponent: float = Field(0.6, gt=0, le=1)
    """Above a half, values converge although outcomes are random (Robbins & Monro 1951)."""
    epsilon_schedule: Literal["linear", "exponential"] = "linear"
    """How epsilon goes from start to end: by equal differences or by equal ratios."""
    epsilon_start: Probability = 1.0
    epsilon_end: float = Field(0.05, ge=0, le=1, validate_default=True)
    epsilon_fraction: float = Field(0.5, gt=0, le=1)
    """Share of the run's env steps over which epsilon falls."""
    evaluation_epsilon: Probability = 0.0

    @field_validator("expected", "planning_steps")
    @classmethod
    def _belongs_to_the_name(cls, value: int, info: ValidationInfo) -> int:
        owner = {"expected": "sarsa", "planning_steps": "dyna_q"}[info.field_name or ""]
        if value and info.data.get("name") not in (owner, None):
            raise ValueError(f"is for {owner}, not for {info.data['name']}")
        return value

    @field_validator("learning_rate_floor")
    @classmethod
    def _lies_below_the_rate(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("learning_rate", 1.0) and info.data.get("preset") is None:
            raise ValueError("may not exceed learning_rate")
        return value

    @field_validator("epsilon_end")
    @classmethod
    def _has_a_ratio(cls, value: float, info: ValidationInfo) -> float:
        exponential = info.data.get("epsilon_schedule") == "exponential" and info.data.get("preset") is None
        if exponential and not (value and info.data.get("epsilon_start")):
            raise ValueError("an exponential schedule goes neither from nor to zero")
        return value


AnyAlgorithm = Annotated[PPO | DQN | SAC | PQN | Tabular, Field(discriminator="name")]


def algorithms() -> dict[str, type[AlgorithmConfig]]:
    """The config class behind every algorithm name."""
    union = get_args(AnyAlgorithm)[0]
    return {name: config for config in get_args(union) for name in get_args(config.model_fields["name"].annotation)}


def fitting(environment: EnvironmentEntry) -> list[str]:
    """Names of the algorithms that take an environment's spaces."""
    observed, acted = kind(environment.observation_space), kind(environment.action_space)
    configs = algorithms().items()
    return [name for name, c in configs if observed in c.observation_spaces and acted in c.action_spaces]
