import pytest
import torch
from torch import Tensor, nn

from worker.rl.optim import Adam, Parameters, clip_rows, polyak

R = 3


class Stacked(nn.Module):
    """Parameters with one and with two members per replica."""

    def __init__(self, replicas: int = R) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(R * 2, 4, 5, generator=g)[: replicas * 2])
        self.bias = nn.Parameter(torch.randn(R * 2, 1, 5, generator=g)[: replicas * 2])
        self.scale = nn.Parameter(torch.randn(R, 1, 2, generator=g)[:replicas])

    def loss(self, x: Tensor) -> Tensor:
        """(R,) from x (R, 8, 4)."""
        out = torch.baddbmm(self.bias, x.repeat_interleave(2, 0), self.weight).square().mean((1, 2))
        return out.view(-1, 2).sum(1) + self.scale.pow(4).sum((1, 2))


def batches(count: int) -> list[Tensor]:
    return list(torch.randn(count, R, 8, 4, generator=torch.Generator().manual_seed(1)))


def reference(replica: int, lrs: list[float], data: list[Tensor], max_norm: float | None = None) -> list[Tensor]:
    """torch's own Adam on one replica."""
    module = Stacked()
    members = slice(2 * replica, 2 * replica + 2)
    own = [
        nn.Parameter(p.detach()[members if p.shape[0] == 2 * R else slice(replica, replica + 1)].clone())
        for p in module.parameters()
    ]
    single = Stacked(1)
    single.weight, single.bias, single.scale = own
    opt = torch.optim.Adam(own, eps=1e-5)
    for lr, x in zip(lrs, data, strict=True):
        opt.param_groups[0]["lr"] = lr
        opt.zero_grad()
        single.loss(x[replica : replica + 1]).sum().backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(own, max_norm)
        opt.step()
    return [p.detach() for p in own]


def rows(module: Stacked, replica: int) -> list[Tensor]:
    members = slice(2 * replica, 2 * replica + 2)
    return [
        module.weight.detach()[members],
        module.bias.detach()[members],
        module.scale.detach()[replica : replica + 1],
    ]


def made(lr: float | list[float], max_norm: float | None = None) -> tuple[Stacked, Parameters, Adam]:
    module = Stacked()
    parameters = Parameters(R, module)
    return module, parameters, Adam(parameters, lr, eps=1e-5, max_grad_norm=max_norm)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_equals_torch_per_replica(max_norm: float | None) -> None:
    module, _, opt = made(0.01, max_norm)
    for x in batches(5):
        opt.step(module.loss(x))
    for r in range(R):
        for ours, theirs in zip(rows(module, r), reference(r, [0.01] * 5, batches(5), max_norm), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_own_learning_rates_that_change() -> None:
    module, _, opt = made([0.01, 0.02, 0.03])
    for i, x in enumerate(batches(4)):
        opt.lr = [0.01 * (i + 1), 0.02, 0.03 / (i + 1)]
        opt.step(module.loss(x))
    lrs = [[0.01, 0.02, 0.03, 0.04], [0.02] * 4, [0.03, 0.015, 0.01, 0.0075]]
    for r in range(R):
        for ours, theirs in zip(rows(module, r), reference(r, lrs[r], batches(4)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_inactive_replicas_keep_weights_moments_and_steps() -> None:
    module, _, opt = made(0.01)
    data = batches(4)
    opt.step(module.loss(data[0]))
    opt.step(module.loss(data[1]), [True, False, True])
    opt.step(module.loss(data[2]), [False, False, True])
    opt.step(module.loss(data[3]))
    assert opt.steps.tolist() == [3, 2, 4]
    for r, seen in enumerate(([0, 1, 3], [0, 3], [0, 1, 2, 3])):
        expected = reference(r, [0.01] * len(seen), [data[i] for i in seen])
        for ours, theirs in zip(rows(module, r), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [15, 45, 100, 4099])
def test_a_row_does_not_depend_on_which_others_move(size: int) -> None:
    """To the bit, now and after a resume, whatever a row's length leaves over for the vector units."""

    def made(replicas: int) -> tuple[Parameters, Adam]:
        module = nn.ParameterList([torch.randn(R, size, generator=torch.Generator().manual_seed(0))[:replicas]])
        parameters = Parameters(replicas, module)
        return parameters, Adam(parameters, 0.01)

    (together, a), (apart, b), (resumed, c), (alone, d) = made(R), made(R), made(R), made(1)
    for number in range(20):
        gradient = torch.randn(R, size, generator=torch.Generator().manual_seed(number))
        a.apply([gradient])
        b.apply([gradient], [True, number == 1, False])
        d.apply([gradient[:1]])
        if number == 3:
            resumed.load(apart.state())
            c.load(b.state())
        if number > 3:
            c.apply([gradient], [True, False, False])
    rows = [parameters.buffers[0][0] for parameters in (together, apart, resumed, alone)]
    assert all(torch.equal(rows[0], row) for row in rows[1:])


def test_select_and_load_go_on_as_before() -> None:
    module, parameters, opt = made(0.01)
    data = batches(3)
    opt.step(module.loss(data[0]))
    opt.step(module.loss(data[1]), [True, False, True])
    weights, moments = parameters.state(), opt.state()
    other, other_parameters, other_opt = made(0.01)
    other_parameters.load(weights)
    other_opt.load(moments)
    parameters.select([2, 1])
    opt.select([2, 1])
    opt.step(module.loss(data[2][[2, 1]]))
    other_opt.step(other.loss(data[2]))
    for mine, theirs in ((0, 2), (1, 1)):
        for a, b in zip(rows(module, mine), rows(other, theirs), strict=True):
            assert torch.equal(a, b)


def test_parameters_are_views_of_their_buffers() -> None:
    module, parameters, _ = made(0.01)
    before = [p.detach().clone() for p in module.parameters()]
    with torch.no_grad():
        for buffer in parameters.buffers:
            buffer.mul_(2.0)
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter.detach(), 2 * old)
    assert parameters.finite().tolist() == [True] * R
    with torch.no_grad():
        module.scale[1] = float("nan")
    assert parameters.finite().tolist() == [True, False, True]


def test_an_unstacked_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="stacked over 3 replicas"):
        Parameters(3, nn.Linear(2, 4))


def test_polyak_moves_a_share_and_one_copies() -> None:
    online, target = Parameters(R, Stacked()), Parameters(R, Stacked())
    for buffer in online.buffers:
        buffer.add_(1.0)
    polyak(target, online, 0.25)
    torch.testing.assert_close(online.buffers[0] - target.buffers[0], torch.full_like(online.buffers[0], 0.75))
    polyak(target, online, 1.0)
    assert torch.equal(target.buffers[0], online.buffers[0])


def test_clipping_uses_one_norm_per_replica() -> None:
    gradients = [torch.tensor([[3.0], [0.1]]), torch.tensor([[4.0], [0.0]])]
    clip_rows(gradients, 1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6], [0.1]]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.8], [0.0]]))
