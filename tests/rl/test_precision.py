"""The probe of matrix products, and when the faster kernels are taken."""

from typing import Any

import pytest
import torch

from worker.rl import precision

backend: Any = torch.backends.mkldnn


def test_ieee_products_pass_the_probe_that_leaves_the_setting_alone() -> None:
    assert 0 < precision.error("ieee") < 1e-6
    assert backend.matmul.fp32_precision == "ieee"


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
    monkeypatch.setattr(precision, "of_large_products", lambda: "bf16" if error < precision.TOLERANCE else "ieee")
    used: list[str] = []
    monkeypatch.setattr(precision, "_use", used.append)
    x, weight, bias = (
        torch.ones(1, *shape, requires_grad=True) for shape in ((rows, width), (width, width), (1, width))
    )
    product = precision.affine(bias, x, weight)
    assert used == ["bf16", "ieee"] * taken
    product.sum().backward()
    assert used == ["bf16", "ieee"] * (2 * taken)


def test_the_setting_is_back_after_every_product_and_its_gradient() -> None:
    x, weight, bias = (torch.randn(1, *shape, requires_grad=True) for shape in ((64, 256), (256, 256), (1, 256)))
    product = precision.affine(bias, x, weight)
    assert backend.matmul.fp32_precision == "ieee"
    grads = torch.autograd.grad(product.square().sum(), (x, weight, bias))
    assert backend.matmul.fp32_precision == "ieee"
    expected = torch.autograd.grad((x @ weight + bias).square().sum(), (x, weight, bias))
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)
