"""What the configs of all algorithms share: the types of their numbers and the base of their classes."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

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
    hidden_after_torso: ClassVar[bool] = False
    """Whether ``hidden_sizes`` counts for images, too, behind a convolutional torso, which has sizes of its own."""
    packs: ClassVar[bool] = True
    """Whether several runs train together in one process (design: the replica axis)."""
    variants: ClassVar[dict[str, Variant]] = {}
    """Names that stand for something else than the class says of itself."""

    preset: Literal["auto"] | None = None
    """``auto`` takes tuned numbers for the environment, and becomes null where there are none; fields given win."""
    gamma: Probability = 0.99
    """Discount factor per environment step."""

    @classmethod
    def about(cls, name: str) -> Variant:
        """What one of the class's names stands for."""
        return cls.variants.get(name) or Variant(cls.summary, cls.paper, {})

    def takes(self, field: str) -> bool:
        """Whether a number means anything, as the others are set."""
        return True
