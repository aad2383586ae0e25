"""The probe of matrix products, and when the faster kernels are taken."""

from typing import Any

import pytest
import torch

from worker.rl import precision

backend: Any = torch.backends.mkldnn


def test_ieee_products_pass_the_probe_that_leaves_the_setting_alone() -> None:
    before = backend.matmul.fp32_precision
    assert 0 < precision.error("ieee") < 1e-6
    assert backend.matmul.fp32_precision == before


@pytest.mark.parametrize(
    ("rows", "width", "error", "taken"),
    [
        (64, 256, 1e-6, True),
        (1, 256, 1e-6, False),
        (64, 64, 1e-6, False),
        (1000, 64, 1e-6, True),
        (64, 256, 4e-3, False),
    ],
)
def test_taken_only_for_large_products_where_exact(
    rows: int, width: int, error: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "error", lambda _: error)
    before = backend.matmul.fp32_precision
    with precision.for_rows(rows, width):
        assert (backend.matmul.fp32_precision == "bf16") == taken
    assert backend.matmul.fp32_precision == before
