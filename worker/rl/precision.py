"""Which kernels multiply float32 matrices on the CPU: MKL's, or oneDNN's behind torch's "bf16" setting.

On CPUs without matrix units of that type oneDNN keeps float32 accuracy and is up to twice as fast on large products,
while it costs some 10 µs more per small one; on others it really rounds to bfloat16. The setting holds for the whole
process. So it is used around updates whose products are large, and where a probe of this machine finds float32
accuracy. It decides bits of the result and belongs to the recorded facts of a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch

Precision = Literal["ieee", "bf16"]

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]

LARGE = 4_000_000
"""Multiplications per product from which oneDNN repays its overhead: 64 rows of 256-wide layers, 1,000 of 64-wide."""
TOLERANCE = 1e-5
"""Largest error accepted, relative to the largest entry of the product."""
_SHAPES = ((64, 256, 256), (256, 23, 256))


def of_large_products() -> Precision:
    """The setting this machine takes for large products."""
    return "bf16" if error("bf16") <= TOLERANCE else "ieee"


@contextmanager
def for_rows(rows: int, width: int) -> Iterator[None]:
    """Within it, products of so many rows with layers of this width take the setting for their size.

    So a network acts by MKL and learns, where it is wide, packed or fed large batches, by oneDNN.
    """
    before = _matmul.fp32_precision
    if rows * width * width >= LARGE:
        _matmul.fp32_precision = of_large_products()
    try:
        yield
    finally:
        _matmul.fp32_precision = before


@cache
def error(precision: Precision) -> float:
    """Largest error of products with this setting on this machine, forward and backward, relative to their entries."""
    generator = torch.Generator().manual_seed(0)
    before = _matmul.fp32_precision
    _matmul.fp32_precision = precision
    try:
        return max(_error(*shape, generator) for shape in _SHAPES)
    finally:
        _matmul.fp32_precision = before


def _error(batch: int, rows: int, columns: int, generator: torch.Generator) -> float:
    x = torch.empty(2, batch, rows).normal_(generator=generator)
    w = torch.empty(2, rows, columns).normal_(generator=generator)
    worst = 0.0
    for a, b in ((x, w), (x.transpose(1, 2), x @ w), (x @ w, w.transpose(1, 2))):
        exact = a.double() @ b.double()
        worst = max(worst, float((torch.bmm(a, b) - exact).abs().max() / exact.abs().max()))
    return worst
