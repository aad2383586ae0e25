"""The policy bundle's manifest, ``bundle.json``: everything the server needs to act with ``policy.onnx``.

The graph maps ``observation``, (B, *shape) of float32 or uint8 or, in a discrete space, (B,) of int64, to distribution
parameters: ``logits`` (categorical; multi-categorical, concatenated), ``mean`` and ``log_std`` (gaussian,
tanh_gaussian) or ``q_values`` (epsilon_greedy).
"""

from typing import Any, Literal

from pydantic import Field

from app.schemas.base import Schema
from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace

Distribution = Literal["categorical", "multi_categorical", "gaussian", "tanh_gaussian", "epsilon_greedy"]


class Lineage(Schema):
    """Where a policy comes from."""

    experiment_id: str
    run_id: str
    spec_hash: str
    seed: int
    env_steps: int
    attempt: int
    versions: dict[str, str]
    """Version of every library that decides the weights."""


class PolicyBundle(Schema):
    """Spaces, distribution and lineage of one exported policy."""

    format: Literal[1] = 1
    algorithm: str
    environment_id: str
    environment_kwargs: dict[str, Any]
    observation: BoxSpace | DiscreteSpace = Field(discriminator="type")
    frame_stack: int = Field(1, ge=1)
    """Images that ``observation`` is made of, along its channel axis, the newest last; 1: it is one alone."""
    action: DiscreteSpace | MultiDiscreteSpace | BoxSpace = Field(discriminator="type")
    distribution: Distribution
    epsilon: float = Field(0.0, ge=0, le=1)
    """Share of uniformly random actions of an ``epsilon_greedy`` policy that is not deterministic."""
    parity_error: float
    """Largest difference between the graph's and torch's outputs on the probe batch, absolute where none is beyond 1,
    else relative to the greatest."""
    lineage: Lineage | None = None
