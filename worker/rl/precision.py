"""Which kernels multiply float32 matrices on the CPU: MKL's, or oneDNN's behind torch's "bf16" setting.

On CPUs without matrix units of that type oneDNN keeps float32 accuracy and is up to twice as fast on large products,
while it costs some 10 µs more per small one; on others it really rounds to bfloat16. So it multiplies large matrices
alone, forward and backward, and where a probe of this machine finds float32 accuracy. The setting decides bits of the
result and belongs to the recorded facts of a run.
"""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["ieee", "bf16"]

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]

LARGE = 4_000_000
"""Multiplications per product from which oneDNN repays its overhead: 64 rows of 256-wide layers, 1,000 of 64-wide."""
TOLERANCE = 1e-5
"""Largest error accepted, relative to the largest entry of the product."""
_SHAPES = ((64, 256, 256), (256, 23, 256))


@cache
def of_large_products() -> Precision:
    """The setting this machine takes for large products."""
    return "bf16" if error("bf16") <= TOLERANCE else "ieee"


def affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``bias + x weight``, stacked (L, 1, out), (L, B, in) and (L, in, out), by the kernels for the product's size."""
    if x.numel() * weight.shape[-1] < LARGE or x.is_cuda or (chosen := of_large_products()) == "ieee":
        return torch.baddbmm(bias, x, weight)
    _use(chosen)
    try:
        product = torch.baddbmm(bias, x, weight)
    finally:
        _use("ieee")
    if product.grad_fn is not None:
        # A backward that fails between the two leaves the setting on until the next large product: bits, not accuracy.
        product.grad_fn.register_prehook(lambda _: _use(chosen))
        product.grad_fn.register_hook(lambda *_: _use("ieee"))
    return product


def _use(precision: Precision) -> None:
    _matmul.fp32_precision = precision


def error(precision: Precision) -> float:
    """Largest error of products with this setting on this machine, forward and backward, relative to their entries."""
    generator = torch.Generator().manual_seed(0)
    _use(precision)
    try:
        return max(_error(*shape, generator) for shape in _SHAPES)
    finally:
        _use("ieee")


def _error(batch: int, rows: int, columns: int, generator: torch.Generator) -> float:
    x = torch.empty(2, batch, rows).normal_(generator=generator)
    w = torch.empty(2, rows, columns).normal_(generator=generator)
    worst = 0.0
    for a, b in ((x, w), (x.transpose(1, 2), x @ w), (x @ w, w.transpose(1, 2))):
        exact = a.double() @ b.double()
        worst = max(worst, float((torch.bmm(a, b) - exact).abs().max() / exact.abs().max()))
    return worst
