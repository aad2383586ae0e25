"""Layers with stacked weights: axis 0 of every parameter and input is ``R * members``, replica-major.

A network of R replicas with E members each is one network of R * E; callers view the result as (R, E, …).
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.rl import precision
from worker.rl.noise import derive_seed

M = TypeVar("M", bound=nn.Module)
_LARGE = 8192


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent; of large CPU tensors by the logistic function: a quarter of the time, within 2e-7."""
    if x.numel() < _LARGE or x.is_cuda or torch.onnx.is_in_onnx_export():
        return torch.tanh(x)
    return 2 * torch.sigmoid(2 * x) - 1


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": tanh,
    "relu": F.relu,
    "silu": F.silu,
    "elu": F.elu,
    "gelu": F.gelu,
}


class Init:
    """Draws initial weights: one generator per replica, seeded by the run, so that they don't depend on the pack.

    Members of a replica draw one after the other from their replica's generator.
    """

    def __init__(self, seeds: Sequence[int], label: str) -> None:
        self.replicas = len(seeds)
        self._generators = [torch.Generator().manual_seed(derive_seed(seed, "init", label)) for seed in seeds]

    def orthogonal(self, members: int, rows: int, columns: int, gain: float) -> Tensor:
        """(R * members, rows, columns), rows or columns orthonormal times ``gain`` (Saxe et al. 2014)."""
        return torch.stack([_orthogonal(rows, columns, gain, g) for g in self._generators for _ in range(members)])

    def uniform(self, members: int, rows: int, columns: int, bound: float) -> Tensor:
        """(R * members, rows, columns) uniform on [-bound, bound]."""
        draws = [torch.empty(members, rows, columns).uniform_(-bound, bound, generator=g) for g in self._generators]
        return torch.cat(draws)


def _orthogonal(rows: int, columns: int, gain: float, generator: torch.Generator) -> Tensor:
    tall = torch.empty(max(rows, columns), min(rows, columns)).normal_(generator=generator)
    q, r = torch.linalg.qr(tall)
    scaled: Tensor = q * (gain * r.diagonal().sign())
    return scaled if rows >= columns else scaled.T


class Linear(nn.Module):
    """Affine map with stacked weights: (L, B, in) -> (L, B, out) where L = R * members.

    ``weight`` is (L, in, out), ``bias`` (L, 1, out).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0], 1, weight.shape[2]) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return precision.affine(self.bias, x, self.weight)

    def one(self, row: int) -> nn.Linear:
        """A copy of one row of the stack, (B, in) -> (B, out), for export."""
        _, in_features, out_features = self.weight.shape
        layer = nn.Linear(in_features, out_features, device="meta")
        weight = self.weight.detach()[row].T.clone(memory_format=torch.contiguous_format)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(self.bias.detach()[row, 0].clone(), requires_grad=False)
        return layer


def orthogonal_linear(init: Init, members: int, in_features: int, out_features: int) -> Linear:
    """Orthogonal weights of gain sqrt 2, zero bias: the habit of policy-gradient methods."""
    return Linear(init.orthogonal(members, in_features, out_features, math.sqrt(2)))


def fan_in_linear(init: Init, members: int, in_features: int, out_features: int) -> Linear:
    """Weights and bias uniform within 1 / sqrt(in): what ``torch.nn.Linear`` starts with, the habit of DQN and SAC."""
    bound = 1 / math.sqrt(in_features)
    return Linear(
        init.uniform(members, in_features, out_features, bound), init.uniform(members, 1, out_features, bound)
    )


def rows_of(module: M, rows: slice) -> M:
    """A module of only these rows of every parameter, without gradients; it shares their memory."""
    views = {id(p): nn.Parameter(p.detach()[rows], requires_grad=False) for p in module.parameters()}
    return deepcopy(module, views)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450): (L, B, *shape) -> (L, B, *shape).

    Args:
        stack: L.
        shape: of what is normalised together, (features,) or (C, H, W).
    """

    def __init__(self, stack: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.ones(stack, 1, *shape))
        self.bias = nn.Parameter(torch.zeros(stack, 1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[0] == 1:
            return F.layer_norm(x, self.shape, self.weight.view(self.shape), self.bias.view(self.shape))
        return torch.addcmul(self.bias, F.layer_norm(x, self.shape), self.weight)

    def one(self, row: int) -> nn.LayerNorm:
        """A copy of one row of the stack, (B, *shape) -> the same, for export."""
        layer = nn.LayerNorm(self.shape, device="meta")
        layer.weight = nn.Parameter(self.weight.detach()[row, 0].clone(), requires_grad=False)
        layer.bias = nn.Parameter(self.bias.detach()[row, 0].clone(), requires_grad=False)
        return layer


class Conv2d(nn.Module):
    """Convolution with stacked weights, (L, B, C, H, W) -> (L, B, out, H', W').

    A loop over L: on a CPU it beats one grouped convolution.
    """

    def __init__(self, init: Init, members: int, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        flat = init.orthogonal(members, out_channels, in_channels * kernel * kernel, math.sqrt(2))
        self.weight = nn.Parameter(flat.reshape(*flat.shape[:2], in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(flat.shape[0], out_channels))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        parts = [F.conv2d(x[i], self.weight[i], self.bias[i], self.stride) for i in range(self.weight.shape[0])]
        return torch.stack(parts)

    def one(self, row: int) -> nn.Conv2d:
        """A copy of one row of the stack, (B, C, H, W) -> (B, out, H', W'), for export."""
        _, out_channels, in_channels, kernel, _ = self.weight.shape
        layer = nn.Conv2d(in_channels, out_channels, kernel, self.stride, device="meta")
        layer.weight = nn.Parameter(self.weight.detach()[row].clone(), requires_grad=False)
        layer.bias = nn.Parameter(self.bias.detach()[row].clone(), requires_grad=False)
        return layer
