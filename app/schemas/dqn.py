"""The config of DQN and its descendants, one class whose names set switches."""

import json
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from app.schemas.config import Activation, AlgorithmConfig, LearningRate, Probability, Sizes, Variant


def _switch(field: str, general: Any, **constraints: Any) -> Any:
    """A field of :class:`DQN` whose default is its name's, or else the general one."""
    return Field(default_factory=lambda given: _by_name(field, given, general), **constraints)


def _part(field: str, general: Any, **constraints: Any) -> Any:
    """The like that belongs to a switch: null where that is set otherwise. A dict has a default for each setting."""

    def default(given: dict[str, Any]) -> Any:
        switch, settings = DQN.parts[field]
        if (setting := given.get(switch)) not in settings:
            return None
        return _by_name(field, given, general[setting] if isinstance(general, dict) else general)

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
            {"distribution": "implicit"},
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
    num_quantiles: int | None = _part("num_quantiles", {"quantile": 50, "implicit": 8}, ge=1, le=512)
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
