"""Which kernels multiply float32 matrices on the CPU: MKL's, or oneDNN's behind torch's "bf16" setting.

On CPUs without matrix units of that type oneDNN keeps float32 accuracy and is up to twice as fast on wide layers,
while it costs some 10 µs more per tiny call; on others it really rounds to bfloat16. The setting holds for the whole
process. So it is used where layers are wide and a probe of this machine finds float32 accuracy. It decides bits of the
result and belongs to the recorded facts of a run.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch

Precision = Literal["ieee", "bf16"]

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]

WIDE = 256
"""Layers this wide gain."""
TOLERANCE = 1e-5
"""Largest error accepted, relative to the largest entry of the product."""
_SHAPES = ((64, 256, 256), (256, 23, 256))


def choose(widths: Sequence[int]) -> Precision:
    """The precision setting for networks with layers of these widths, for this machine."""
    return "bf16" if min(widths) >= WIDE and error("bf16") <= TOLERANCE else "ieee"


def use(precision: Precision) -> None:
    """Let the whole process multiply with this setting."""
    _matmul.fp32_precision = precision


def in_use() -> str:
    """The process's setting."""
    return str(_matmul.fp32_precision)


@cache
def error(precision: Precision) -> float:
    """Largest error of products with this setting on this machine, forward and backward, relative to their entries."""
    generator = torch.Generator().manual_seed(0)
    before = _matmul.fp32_precision
    use(precision)
    try:
        return max(_error(*shape, generator) for shape in _SHAPES)
    finally:
        _matmul.fp32_precision = before


def _error(batch: int, rows: int, columns: int, generator: torch.Generator) -> float:
    x = torch.empty(2, batch, rows).normal_(generator=generator)
    w = torch.empty(2, rows, columns).normal_(generator=generator)
    bias = torch.zeros(2, 1, columns)
    worst = 0.0
    for a, b in ((x, w), (x.transpose(1, 2), x @ w), (x @ w, w.transpose(1, 2))):
        exact = a.double() @ b.double()
        stacked = torch.baddbmm(bias[..., :1], a, b)
        single = torch.addmm(bias[0, :, :1], a[0], b[0])
        scale = float(exact.abs().max())
        worst = max(worst, *(float((p - q).abs().max()) / scale for p, q in ((stacked, exact), (single, exact[0]))))
    return worst
