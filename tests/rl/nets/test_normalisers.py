import torch

from worker.rl.nets.normalisers import CLIP, RunningNorm


def test_parallel_updates_equal_one_pass() -> None:
    data = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0)) * 5 + 100
    norm = RunningNorm(2, (3,))
    for part in data.split([1, 9, 490, 500], 1):
        norm.update(part)
    torch.testing.assert_close(norm.mean, data.double().mean(1))
    torch.testing.assert_close(norm.var, data.double().var(1, correction=0))
    out = norm(data)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std(1), torch.ones(2, 3), rtol=0, atol=1e-2)


def test_rescaling_keeps_the_sign_and_both_clip() -> None:
    norm = RunningNorm(1, ())
    norm.update(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(norm.rescale(torch.tensor([[2.0, -2.0]])), torch.tensor([[2.0, -2.0]]))
    assert norm(torch.tensor([[1e9]])).item() == norm.rescale(torch.tensor([[1e9]])).item() == CLIP


def test_state_and_select() -> None:
    norm = RunningNorm(3, (2,))
    norm.update(torch.randn(3, 50, 2))
    other = RunningNorm(3, (2,))
    other.load(norm.state())
    held = {"mean": norm.mean.clone(), "var": norm.var.clone(), "count": norm.count}
    third = RunningNorm(3, (2,))
    third.load(held)
    third.update(torch.randn(3, 50, 2))
    assert torch.equal(held["mean"], norm.mean) and torch.equal(held["var"], norm.var), "a state is not written to"
    other.select([2, 0])
    x = torch.randn(3, 4, 2)
    assert torch.equal(other(x[[2, 0]]), norm(x)[[2, 0]])
