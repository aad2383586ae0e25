"""Convolution of small images: one product over all patches, stacked over replicas."""

import math

from torch import Tensor, nn

from worker.rl import precision
from worker.rl.nets.layers import Init


class PatchConv2d(nn.Module):
    """Convolution of stride 1, channels last, with stacked weights: (L, B, H, W, C) -> (L, B, H', W', out).

    Of 32 images of 10 x 10 it takes, with the layer after it, three quarters of oneDNN's time, forward and backward.
    ``weight`` is (L, kernel * kernel * C, out), a patch's numbers in the order of rows, columns, channels.
    """

    def __init__(self, init: Init, members: int, channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        weight = init.orthogonal(members, kernel * kernel * channels, out_channels, math.sqrt(2))
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[0], 1, out_channels))
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        k, channels = self.kernel, x.shape[-1]
        rows = x.flatten(-2).unfold(-1, k * channels, channels)  # (L, B, H, W', k * C): a patch's rows lie together
        patches = rows.unfold(-3, k, 1).transpose(-1, -2)  # (L, B, H', W', k, k * C)
        out = precision.affine(self.bias, patches.reshape(x.shape[0], -1, self.weight.shape[1]), self.weight)
        return out.view(*patches.shape[:-2], -1)

    def one(self, row: int) -> nn.Module:
        """A copy of one row of the stack, (B, H, W, C) -> (B, H', W', out), for export."""
        k, out_channels = self.kernel, self.weight.shape[2]
        layer = nn.Conv2d(self.weight.shape[1] // k**2, out_channels, k, device="meta")
        weight = self.weight.detach()[row].T.reshape(out_channels, k, k, -1).movedim(-1, 1).contiguous()
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(self.bias.detach()[row, 0].clone(), requires_grad=False)
        return ChannelsLast(layer)


class ChannelsLast(nn.Module):
    """A convolution that takes and gives images with their channels last."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convolution(x.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1)
