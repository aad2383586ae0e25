"""Layers whose weights are perturbed by learned amounts: NoisyNet (Fortunato et al. 2018, arXiv 1706.10295).

Noise is handed in with the observations and never kept: every pass says which it means, and without any a layer is the
linear one of its mean weights.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from worker.rl import precision
from worker.rl.nets.layers import Init, Linear
from worker.rl.nets.torsos import MLP


def factors(normal: Tensor) -> Tensor:
    """``f(x) = sgn(x) sqrt(|x|)`` of standard normal numbers: what factorised noise is the product of (eq. 10)."""
    return normal.sign() * normal.abs().sqrt()


class NoisyLinear(Linear):
    """Affine map with factorised Gaussian noise, one member: ``y = x (W + S * f_in f_out) + b + s * f_out``.

    The means start as those of a linear layer, the amounts of noise S and s at ``std / sqrt(in)`` (section 3.2).

    Args:
        std: sigma_0 of the paper.
        start: Where this layer's in + out numbers lie in the network's noise.
    """

    def __init__(self, init: Init, in_features: int, out_features: int, std: float, start: int) -> None:
        bound = 1 / math.sqrt(in_features)
        super().__init__(init.uniform(1, in_features, out_features, bound), init.uniform(1, 1, out_features, bound))
        self.weight_std = nn.Parameter(torch.full_like(self.weight, std * bound))
        self.bias_std = nn.Parameter(torch.full_like(self.bias, std * bound))
        self.inputs = slice(start, start + in_features)
        self.outputs = slice(start + in_features, start + in_features + out_features)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(R, B, in) and the :func:`factors` of the whole network, (R, numbers) -> (R, B, out)."""
        if noise is None:
            return super().forward(x)
        rows, columns = noise[:, self.inputs].unsqueeze(2), noise[:, self.outputs].unsqueeze(1)
        weight = torch.addcmul(self.weight, self.weight_std, rows * columns)
        return precision.affine(torch.addcmul(self.bias, self.bias_std, columns), x, weight)


class NoisyMLP(MLP):
    """An :class:`MLP` of noisy layers of these sizes, input and output included.

    ``end`` is where its last layer's numbers end in the network's noise.
    """

    def __init__(self, init: Init, sizes: Sequence[int], activation: str, std: float, start: int) -> None:
        layers = []
        for inputs, outputs in pairwise(sizes):
            layers.append(NoisyLinear(init, inputs, outputs, std, start))
            start += inputs + outputs
        super().__init__(layers, activation, activate_last=False)
        self.end = start

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            return super().forward(x)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer.forward(x, noise)
            if i < last:
                x = self.activation(x)
        return x
