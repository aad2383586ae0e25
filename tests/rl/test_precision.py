"""The probe of matrix products, and when the faster kernels are taken."""

from typing import Any

import pytest
import torch

from worker.rl import precision


def test_ieee_products_pass_the_probe_that_leaves_the_setting_alone() -> None:
    backend: Any = torch.backends.mkldnn
    before = backend.matmul.fp32_precision
    assert 0 < precision.error("ieee") < 1e-6
    assert backend.matmul.fp32_precision == before


@pytest.mark.parametrize(
    ("widths", "error", "expected"), [((256, 256), 1e-6, "bf16"), ((256, 64), 1e-6, "ieee"), ((256, 256), 4e-3, "ieee")]
)
def test_taken_only_for_wide_layers_where_exact(
    widths: tuple[int, ...], error: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "error", lambda _: error)
    assert precision.choose(widths) == expected
