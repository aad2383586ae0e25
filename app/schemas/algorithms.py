"""One frozen config per algorithm and one union discriminated on ``name``.

Adding an algorithm touches this file (a config class, listed in ``AnyAlgorithm``) and one module in
``worker/rl/algorithms/`` named by the class's ``module``.
"""

import json
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field, ValidationInfo, field_validator

from app.schemas.base import Items, SpecSchema

Sizes = Annotated[Items[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=8)]
Probability = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
Activation = Literal["tanh", "relu", "silu", "elu", "gelu"]
Schedule = Literal["constant", "linear"]


class Variant(NamedTuple):
    """What a further name of a config class stands for."""

    summary: str
    paper: str
    defaults: dict[str, Any]


class AlgorithmConfig(SpecSchema):
    """What every algorithm has. Class variables tell the service what the algorithm can do.

    Validators that compare two numbers pass while a ``preset`` may still change one: ``presets.apply`` asks them again.
    """

    module: ClassVar[str]
    """Module of ``worker.rl.algorithms`` whose ``build`` makes the agent."""
    summary: ClassVar[str]
    paper: ClassVar[str]
    observation_spaces: ClassVar[tuple[str, ...]] = ("vector", "image")
    action_spaces: ClassVar[tuple[str, ...]]
    default_num_envs: ClassVar[int] = 1
    packs: ClassVar[bool] = True
    """Whether several runs train together in one process (design: the replica axis)."""
    variants: ClassVar[dict[str, Variant]] = {}
    """Names that stand for something else than the class says of itself."""

    preset: Literal["auto"] | None = None
    """``auto`` takes tuned numbers for the environment where there are any; fields given explicitly win."""
    gamma: Probability = 0.99
    """Discount factor per environment step."""

    @classmethod
    def about(cls, name: str) -> Variant:
        """What one of the class's names stands for."""
        return cls.variants.get(name) or Variant(cls.summary, cls.paper, {})

    def takes(self, field: str) -> bool:
        """Whether a number means anything, as the others are set."""
        return True


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
    clip_range_value: float | None = Field(None, gt=0)
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


def _switch(field: str, general: Any, **constraints: Any) -> Any:
    """A field of :class:`DQN` whose default is its name's, or else the general one."""
    return Field(default_factory=lambda given: _by_name(field, given, general), **constraints)


def _part(field: str, general: Any, **constraints: Any) -> Any:
    """The like that belongs to a switch: null where that is set otherwise."""

    def default(given: dict[str, Any]) -> Any:
        switch, settings = DQN.parts[field]
        return _by_name(field, given, general) if given.get(switch) in settings else None

    return Field(default_factory=default, **constraints)


def _by_name(field: str, given: dict[str, Any], general: Any) -> Any:
    return DQN.about(given.get("name", "")).defaults.get(field, general)


class DQN(AlgorithmConfig):
    """Deep Q-network (Mnih et al. 2015) with Adam, and the parts that the literature has added to it.

    A name sets the switches (``double`` to ``distribution``), and a spec may set each of them otherwise. What belongs
    to a part that is off is null, and so is what a part that is on makes void.
    """

    module: ClassVar[str] = "dqn"
    summary: ClassVar[str] = "Deep Q-network with a target network and uniform experience replay."
    paper: ClassVar[str] = "https://arxiv.org/abs/1312.5602"
    action_spaces: ClassVar[tuple[str, ...]] = ("discrete",)
    variants: ClassVar[dict[str, Variant]] = {
        "double_dqn": Variant(
            "DQN whose online network chooses the action that the target network rates.",
            "https://arxiv.org/abs/1509.06461",
            {"double": True},
        ),
        "dueling_dqn": Variant(
            "DQN with one stream for the state's value and one for the actions' advantages.",
            "https://arxiv.org/abs/1511.06581",
            {"dueling": True},
        ),
        "c51": Variant(
            "DQN that learns the distribution of returns as probabilities of fixed atoms.",
            "https://arxiv.org/abs/1707.06887",
            {"distribution": "c51"},
        ),
        "qr_dqn": Variant(
            "DQN that learns the distribution of returns by quantiles at fixed fractions.",
            "https://arxiv.org/abs/1710.10044",
            {"distribution": "quantile"},
        ),
        "iqn": Variant(
            "DQN that learns the distribution of returns by quantiles at any fraction.",
            "https://arxiv.org/abs/1806.06923",
            {"distribution": "implicit", "num_quantiles": 8},
        ),
        "rainbow": Variant(
            "C51 with double Q-learning, dueling streams, prioritized replay, three-step returns and noisy layers.",
            "https://arxiv.org/abs/1710.02298",
            {
                "double": True,
                "dueling": True,
                "prioritized": True,
                "n_step": 3,
                "noisy": True,
                "distribution": "c51",
                "priority_exponent": 0.5,
            },
        ),
    }
    parts: ClassVar[dict[str, tuple[str, tuple[bool | str, ...]]]] = {
        **dict.fromkeys(("epsilon_start", "epsilon_end", "epsilon_fraction"), ("noisy", (False,))),
        "loss": ("distribution", ("none",)),
        **dict.fromkeys(("v_min", "v_max", "num_atoms"), ("distribution", ("c51",))),
        **dict.fromkeys(("num_quantiles", "huber_kappa"), ("distribution", ("quantile", "implicit"))),
        "num_policy_quantiles": ("distribution", ("implicit",)),
        "noisy_std": ("noisy", (True,)),
        **dict.fromkeys(("priority_exponent", "priority_beta", "priority_epsilon"), ("prioritized", (True,))),
    }
    """The switch that a field belongs to, and the settings of it with which the field is not null."""

    name: Literal["dqn", "double_dqn", "dueling_dqn", "c51", "qr_dqn", "iqn", "rainbow"] = "dqn"
    double: bool = _switch("double", False)
    """Choose the next action by the online network and rate it by the target network."""
    dueling: bool = _switch("dueling", False)
    """One stream for the state's value and one for the advantages, each with the last hidden layer to itself."""
    prioritized: bool = _switch("prioritized", False)
    """Draw transitions in proportion to a power of their last error, and weigh them accordingly."""
    n_step: int = _switch("n_step", 1, ge=1, le=100)
    """Env steps between an observation and the one bootstrapped from."""
    noisy: bool = _switch("noisy", False)
    """Explore by learned noise in the weights of the streams instead of epsilon."""
    distribution: Literal["none", "c51", "quantile", "implicit"] = _switch("distribution", "none")
    """What is learned of the return: its mean, probabilities of atoms, fixed quantiles or quantiles at any fraction."""
    hidden_sizes: Sizes = (256, 256)
    activation: Activation = "relu"
    learning_rate: LearningRate = 1e-3
    adam_epsilon: float = Field(1e-8, ge=1e-16, le=1)
    batch_size: int = Field(64, ge=1, le=65536)
    buffer_size: int = Field(100_000, ge=1, le=10_000_000)
    """Transitions kept per run."""
    learning_starts: int = Field(1_000, ge=0)
    """Env steps of random actions before the first update."""
    train_every: int = Field(1, ge=1, le=1_000_000)
    """Env steps between two rounds of updates."""
    gradient_steps: int = Field(1, ge=1, le=1_000_000)
    """Updates per round."""
    target_update_every: int = Field(250, ge=1)
    """Updates between two updates of the target network (global count, never per episode)."""
    tau: float = Field(1.0, gt=0, le=1)
    """Share of the online weights taken at each target update; 1 copies them."""
    loss: Literal["mse", "huber"] | None = _part("loss", "mse")
    """Of the mean return; distributions have losses of their own."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    epsilon_start: Probability | None = _part("epsilon_start", 1.0)
    epsilon_end: Probability | None = _part("epsilon_end", 0.05)
    epsilon_fraction: float | None = _part("epsilon_fraction", 0.2, gt=0, le=1)
    """Share of the run's env steps over which epsilon falls linearly."""
    evaluation_epsilon: Probability = 0.0
    v_min: float | None = _part("v_min", -10.0, ge=-1e9, le=1e9)
    """C51: the lowest return that can be told apart. Watch ``dqn/mass_at_v_min``: returns beyond end up there."""
    v_max: float | None = _part("v_max", 10.0, ge=-1e9, le=1e9, validate_default=True)
    """C51: the highest return that can be told apart, with the discount; see ``dqn/mass_at_v_max``."""
    num_atoms: int | None = _part("num_atoms", 51, ge=2, le=512)
    num_quantiles: int | None = _part("num_quantiles", 50, ge=1, le=512)
    """Quantiles learned at each update (200 in the paper of QR-DQN, 8 in that of IQN). Time grows with the square."""
    num_policy_quantiles: int | None = _part("num_policy_quantiles", 32, ge=1, le=512)
    """IQN: quantiles whose mean decides the action."""
    huber_kappa: float | None = _part("huber_kappa", 1.0, ge=1e-6, le=1e6)
    noisy_std: float | None = _part("noisy_std", 0.5, gt=0, le=10)
    """Sigma_0 of Fortunato et al. 2018: the initial noise of a layer is this over the root of its inputs."""
    priority_exponent: Probability | None = _part("priority_exponent", 0.6)
    """Alpha of Schaul et al. 2016: 0 draws uniformly, 1 in proportion to the error."""
    priority_beta: Probability | None = _part("priority_beta", 0.4)
    """Share of the bias corrected at first; it grows linearly to 1 over the run's env steps."""
    priority_epsilon: float | None = _part("priority_epsilon", 1e-6, gt=0)
    """Added to the error, so that nothing is never drawn again."""

    @field_validator(*parts)
    @classmethod
    def _belongs_to_a_part_that_is_on(cls, value: Any, info: ValidationInfo) -> Any:
        field = info.field_name or ""
        switch, settings = cls.parts[field]
        setting = info.data.get(switch)
        if setting is not None and (value is not None) != (setting in settings):
            fit = " or ".join(json.dumps(fitting) for fitting in settings)
            if value is None:
                raise ValueError(f"may not be null with {switch} {json.dumps(setting)}: leave it out for its default")
            raise ValueError(
                f"is for {switch} {fit}, not {json.dumps(setting)}: leave it out, or set {switch} to {fit}"
            )
        return value

    @field_validator("v_max")
    @classmethod
    def _lies_above_v_min(cls, value: float | None, info: ValidationInfo) -> float | None:
        low = info.data.get("v_min")
        if value is None or low is None or info.data.get("preset") is not None:
            return value
        if value <= low or value - low < 1e-3 * max(abs(low), abs(value)):  # float32 tells the atoms apart
            raise ValueError(f"is {value:g}; it must lie above v_min, which is {low:g}, by a thousandth of either")
        return value

    def takes(self, field: str) -> bool:
        switch, settings = self.parts.get(field, ("name", (self.name,)))
        return getattr(self, switch) in settings


class SAC(AlgorithmConfig):
    """Soft actor–critic with automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

    module: ClassVar[str] = "sac"
    summary: ClassVar[str] = "Soft actor-critic with twin critics and an automatically tuned temperature."
    paper: ClassVar[str] = "https://arxiv.org/abs/1812.05905"
    action_spaces: ClassVar[tuple[str, ...]] = ("vector",)
    n_step: ClassVar[int] = 1
    prioritized: ClassVar[bool] = False

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
    target_entropy: float | None = None
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
    initial_value: float = 0.0
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
