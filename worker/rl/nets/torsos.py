"""Torsos: observations to features, with stacked weights."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.schemas.environments import BoxSpace, brightest, channel_axis, kind
from worker.rl.errors import UnsupportedSpace
from worker.rl.nets.convolutions import PatchConv2d
from worker.rl.nets.layers import ACTIVATIONS, Conv2d, Init, LayerNorm, Linear, fan_in_linear, orthogonal_linear


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


def torso_for(init: Init, observation: BoxSpace, *, normalized: bool = False) -> tuple[nn.Module | None, int]:
    """What turns observations into features, None for vectors, and how many features there are.

    ``normalized``: with layer norm before every activation.
    """
    if kind(observation) != "image":
        return None, math.prod(observation.shape)
    sides = [side for axis, side in enumerate(observation.shape) if axis != channel_axis(observation.shape)]
    fits = NatureCNN if min(sides) >= NatureCNN.smallest else SmallCNN
    torso: NatureCNN | SmallCNN = fits(init, observation, normalized=normalized)
    return torso, torso.features


def _norms(init: Init, shapes: Sequence[Sequence[int]], normalized: bool) -> nn.ModuleList:
    """Layer norm of each of these shapes, or nothing."""
    return nn.ModuleList(LayerNorm(init.replicas, shape) if normalized else nn.Identity() for shape in shapes)


class NatureCNN(nn.Module):
    """The convolutional torso of Mnih et al. 2015, one member: images (R, B, *shape) uint8 -> (R, B, 512)."""

    features = 512
    smallest = 36
    """Pixels on a side that the three convolutions leave one of."""

    def __init__(self, init: Init, observation: BoxSpace, *, normalized: bool = False) -> None:
        super().__init__()
        self.pixels = Pixels(observation)
        self.first = Conv2d(init, 1, self.pixels.channels, 32, 8, 4)
        self.second = Conv2d(init, 1, 32, 64, 4, 2)
        self.third = Conv2d(init, 1, 64, 64, 3, 1)
        heights, widths = map(_sides, self.pixels.size)
        maps = list(zip((32, 64, 64), heights, widths, strict=True))
        self.dense = orthogonal_linear(init, 1, math.prod(maps[-1]), self.features)
        self.norms = _norms(init, [*maps, (self.features,)], normalized)

    def forward(self, obs: Tensor) -> Tensor:
        first, second, third, last = self.norms
        x = self.pixels(obs).movedim(obs.dim() - 1, obs.dim() - 3)
        x = F.relu(first(self.first(x)))
        x = F.relu(second(self.second(x)))
        x = F.relu(third(self.third(x)))
        return F.relu(last(self.dense(x.flatten(-3))))


def _sides(pixels: int) -> list[int]:
    """Pixels on a side after each convolution."""
    sides = []
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        pixels = (pixels - kernel) // stride + 1
        sides.append(pixels)
    return sides


class SmallCNN(nn.Module):
    """The torso of Young & Tian 2019 (https://arxiv.org/abs/1903.03176) for small images: one convolution of 16 3 x 3
    filters and a dense layer, images (R, B, *shape) uint8 -> (R, B, 128).
    """

    features = 128
    filters, kernel = 16, 3

    def __init__(self, init: Init, observation: BoxSpace, *, normalized: bool = False) -> None:
        super().__init__()
        self.pixels = Pixels(observation)
        height, width = (pixels - self.kernel + 1 for pixels in self.pixels.size)
        if min(height, width) < 1:
            raise UnsupportedSpace(f"images must be at least {self.kernel} pixels on a side")
        self.convolution = PatchConv2d(init, 1, self.pixels.channels, self.filters, self.kernel)
        self.dense = orthogonal_linear(init, 1, self.filters * height * width, self.features)
        self.norms = _norms(init, [(height, width, self.filters), (self.features,)], normalized)

    def forward(self, obs: Tensor) -> Tensor:
        first, last = self.norms
        x = F.relu(first(self.convolution(self.pixels(obs))))
        return F.relu(last(self.dense(x.flatten(-3))))


class Pixels(nn.Module):
    """Images as stored, (..., *shape) bytes, to floats in [0, 1] by the space's bound, channels last."""

    def __init__(self, observation: BoxSpace) -> None:
        super().__init__()
        self.axis = channel_axis(observation.shape)
        self.channels = observation.shape[self.axis]
        self.size = [side for axis, side in enumerate(observation.shape) if axis != self.axis]
        """Height and width."""
        self.brightest = brightest(observation)

    def forward(self, obs: Tensor) -> Tensor:
        last = obs.dim() - 1  # counted from the left, since the ONNX exporter knows no negative axes
        x = obs.movedim(last - 2 + self.axis, last).to(torch.float32)
        return x if self.brightest == 1 else x / self.brightest
