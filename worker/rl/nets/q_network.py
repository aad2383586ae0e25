"""Action values, or distributions of returns, with the parts that the literature adds to them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.schemas.environments import BoxSpace
from worker.rl.functional import quantile_values
from worker.rl.nets.layers import Init, fan_in_linear
from worker.rl.nets.noisy import NoisyMLP, factors
from worker.rl.nets.torsos import MLP, fan_in_mlp, torso_for

COSINES = 64
"""Features that a fraction is embedded by (section 3.1 of IQN)."""


class QNetwork(nn.Module):
    """Numbers for each action of a discrete space: obs (R, B, …) -> (R, B, actions) or (R, B, actions, atoms).

    Vectors pass through the hidden layers. With any of the parts below, the last of these belongs to each stream, and
    those before it are the shared torso (an implicit network shares at least one). Images pass through a convolutional
    torso; with such parts, streams have a hidden layer of their own as wide as its features.

    Args:
        atoms: Numbers per action: logits of a distribution, or its quantiles; None = one value, without an axis.
        dueling: A stream for the state's value and one for the advantages (Wang et al. 2016, arXiv 1511.06581).
        noisy_std: Initial noise of the streams' layers (Fortunato et al. 2018); None = plain layers.
        implicit: Quantiles at fractions asked for (IQN, Dabney et al. 2018, arXiv 1806.06923), this many where none
            are; None = not.
    """

    def __init__(
        self,
        init: Init,
        observation: BoxSpace,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        *,
        atoms: int | None = None,
        dueling: bool = False,
        noisy_std: float | None = None,
        implicit: int | None = None,
    ) -> None:
        super().__init__()
        parts = dueling or noisy_std is not None or implicit is not None
        self.torso, features = torso_for(init, observation)
        own: tuple[int, ...] = (features,) if parts else ()
        if self.torso is None:
            shared = max(len(hidden) - 1, int(implicit is not None)) if parts else 0
            own = tuple(hidden[shared:])
            if shared:
                layers = [fan_in_linear(init, 1, a, b) for a, b in pairwise((features, *hidden[:shared]))]
                self.torso, features = MLP(layers, activation, activate_last=True), hidden[shared - 1]
        self.embedding = None if implicit is None else FractionEmbedding(init, features, implicit)
        self.atoms = atoms
        self.noise_size = 0
        """Standard normal numbers a noisy pass takes."""

        def stream(outputs: int) -> MLP:
            sizes = (features, *own, outputs)
            if noisy_std is None:
                return fan_in_mlp(init, 1, sizes, activation)
            mlp = NoisyMLP(init, sizes, activation, noisy_std, self.noise_size)
            self.noise_size = mlp.end
            return mlp

        self.advantage = stream(actions * (atoms or 1))
        self.value = stream(atoms or 1) if dueling else None

    def forward(self, obs: Tensor, noise: Tensor | None = None, fractions: Tensor | None = None) -> Tensor:
        """Outputs for obs; an implicit network's are (R, B, actions, N) for ``fractions`` (R, B, N).

        Args:
            noise: Standard normal (R, noise_size) for noisy layers; None = their mean weights.
            fractions: None = the midpoints of as many equal parts of [0, 1] as the network was built with.
        """
        x = obs if self.torso is None else self.torso(obs)
        if self.embedding is not None:
            x = self.embedding(x, fractions)
        perturbed = () if noise is None else (factors(noise),)
        q: Tensor = self._outputs(self.advantage(x, *perturbed))
        if self.value is not None:
            value = self._outputs(self.value(x, *perturbed))
            q = dueling(value, q, -1 if self.atoms is None else -2)
        return q if self.embedding is None else self.embedding.quantiles(q, fractions)

    def _outputs(self, x: Tensor) -> Tensor:
        return x if self.atoms is None else x.unflatten(-1, (-1, self.atoms))


def dueling(value: Tensor, advantage: Tensor, axis: int) -> Tensor:
    """``V + A - mean_a A`` (eq. 9 of Wang et al.), the actions along ``axis``; of logits, before their softmax."""
    return value + (advantage - advantage.mean(axis, keepdim=True))


class FractionEmbedding(nn.Module):
    """Features times a function of the fraction, ``relu(sum_i cos(pi i tau) w_i + b)`` (eq. 4 of IQN).

    Args:
        count: Fractions taken where none are given.
    """

    midpoints: Tensor
    frequencies: Tensor

    def __init__(self, init: Init, features: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = fan_in_linear(init, 1, COSINES, features)
        self.register_buffer("midpoints", quantile_values.midpoints(count))
        self.register_buffer("frequencies", torch.pi * torch.arange(COSINES))

    def forward(self, x: Tensor, fractions: Tensor | None) -> Tensor:
        """Features (R, B, F) and fractions (R, B, N) -> (R, B * N, F)."""
        tau = self.midpoints.expand(*x.shape[:-2], 1, -1) if fractions is None else fractions
        cosines = (tau.unsqueeze(-1) * self.frequencies).cos()
        embedded = self._apart(F.relu(self.linear(cosines.flatten(-3, -2))), fractions)
        product: Tensor = x.unsqueeze(-2) * embedded
        return product.flatten(-3, -2)

    def quantiles(self, q: Tensor, fractions: Tensor | None) -> Tensor:
        """(R, B * N, actions) -> (R, B, actions, N)."""
        return self._apart(q, fractions).transpose(-1, -2)

    def _apart(self, x: Tensor, fractions: Tensor | None) -> Tensor:
        count = self.count if fractions is None else fractions.shape[-1]
        parts: Tensor = x.unflatten(-2, (-1, count))
        return parts
