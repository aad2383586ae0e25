"""Torsos: observations to features, with stacked weights."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.rl.errors import UnsupportedSpace
from worker.rl.nets.layers import ACTIVATIONS, Conv2d, Init, Linear, fan_in_linear, orthogonal_linear


class MLP(nn.Module):
    """Linear layers with an activation between them, and after the last one if ``activate_last``.

    (L, B, in) -> (L, B, width of the last layer).
    """

    def __init__(self, layers: Sequence[Linear], activation: str, *, activate_last: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]
        self.activate_last = activate_last

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers
        last = len(layers) - 1
        for i, layer in enumerate(layers):
            x = layer.forward(x)  # not called: what nn.Module does around a call costs as much as a small product
            if i < last or self.activate_last:
                x = self.activation(x)
        return x


def orthogonal_mlp(
    init: Init, members: int, in_features: int, hidden: Sequence[int], head: Linear, activation: str
) -> MLP:
    """Orthogonal hidden layers (gain sqrt 2) and the given last layer."""
    sizes = [in_features, *hidden]
    layers = [orthogonal_linear(init, members, a, b) for a, b in pairwise(sizes)]
    return MLP([*layers, head], activation, activate_last=False)


def fan_in_mlp(init: Init, members: int, sizes: Sequence[int], activation: str) -> MLP:
    """Layers of these sizes, input and output included, initialised like ``torch.nn.Linear``."""
    layers = [fan_in_linear(init, members, a, b) for a, b in pairwise(sizes)]
    return MLP(layers, activation, activate_last=False)


class NatureCNN(nn.Module):
    """The convolutional torso of Mnih et al. 2015, one member: (R, B, H, W, C) uint8 -> (R, B, 512).

    ``channels_first`` observations are (R, B, C, H, W). Bytes are scaled to [0, 1] here and stored as bytes elsewhere.
    """

    features = 512

    def __init__(self, init: Init, shape: Sequence[int]) -> None:
        super().__init__()
        self.channels_first = shape[0] < shape[2]
        channels, height, width = shape if self.channels_first else (shape[2], shape[0], shape[1])
        self.first = Conv2d(init, 1, channels, 32, 8, 4)
        self.second = Conv2d(init, 1, 32, 64, 4, 2)
        self.third = Conv2d(init, 1, 64, 64, 3, 1)
        self.dense = orthogonal_linear(init, 1, 64 * _side(height) * _side(width), self.features)

    def forward(self, obs: Tensor) -> Tensor:
        x = obs if self.channels_first else obs.movedim(obs.dim() - 1, obs.dim() - 3)
        x = x.to(torch.float32) / 255.0
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        x = F.relu(self.third(x))
        return F.relu(self.dense(x.flatten(-3)))


def _side(pixels: int) -> int:
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        pixels = (pixels - kernel) // stride + 1
    if pixels < 1:
        raise UnsupportedSpace("images must be at least 36 pixels on a side")
    return pixels
