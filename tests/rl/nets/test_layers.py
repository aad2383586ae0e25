import pytest
import torch

from tests.rl.toys import box
from worker.rl.nets.heads import ActorCritic, Critics, SquashedGaussian
from worker.rl.nets.layers import Conv2d, Init, LayerNorm, fan_in_linear, orthogonal_linear, rows_of, tanh
from worker.rl.nets.q_network import QNetwork

SEEDS = [5, 6, 7]


def test_the_quick_tanh_is_the_tanh() -> None:
    x = torch.linspace(-30, 30, 100_001, requires_grad=True)
    quick, exact = tanh(x), torch.tanh(x)
    torch.testing.assert_close(quick, exact, rtol=0, atol=2e-7)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (quick, exact)]
    torch.testing.assert_close(*slopes, rtol=0, atol=5e-7)


def test_linear_is_each_replicas_own_map() -> None:
    layer = fan_in_linear(Init(SEEDS, "x"), 2, 4, 3)
    x = torch.randn(6, 9, 4)
    expected = torch.stack([x[i] @ layer.weight[i] + layer.bias[i] for i in range(6)])
    torch.testing.assert_close(layer(x), expected)


def test_weights_do_not_depend_on_the_pack() -> None:
    pack, alone = (ActorCritic(Init(seeds, "net"), box(4), 3, (8, 8), "tanh", 0.5) for seeds in (SEEDS, [6]))
    for ours, own in zip(pack.parameters(), alone.parameters(), strict=True):
        members = ours.shape[0] // 3
        assert torch.equal(ours[members : 2 * members], own)


def test_orthogonal_weights_have_their_gain() -> None:
    for rows, columns in ((4, 64), (64, 64), (64, 2)):
        weight = orthogonal_linear(Init(SEEDS, "x"), 2, rows, columns).weight.detach()
        small = weight @ weight.mT if rows <= columns else weight.mT @ weight
        torch.testing.assert_close(small, 2 * torch.eye(min(rows, columns)).expand_as(small), rtol=0, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 5])
def test_actor_critic_starts_near_uniform_with_towers_of_its_own(outputs: int) -> None:
    net = ActorCritic(Init(SEEDS, "net"), box(4), outputs, (16,), "tanh")
    obs = torch.randn(3, 9, 4)
    out, value = net(obs)
    assert out.shape == (3, 9, outputs) and value.shape == (3, 9)
    assert float(out.detach().abs().max()) < 0.05 < float(value.detach().abs().max())
    torch.testing.assert_close(net.actor()(obs), out)
    gradient = torch.autograd.grad(out.sum(), list(net.parameters()), materialize_grads=True)
    assert all(not g.unflatten(0, (3, 2))[:, 1].any() for g in gradient), "the policy moves the value's tower"


def test_actor_shares_memory() -> None:
    net = ActorCritic(Init(SEEDS, "net"), box(4), 2, (16,), "tanh")
    actor, obs = net.actor(), torch.randn(3, 9, 4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(actor(obs), net(obs)[0])


def test_rows_of_are_those_replicas() -> None:
    net, obs = Critics(Init(SEEDS, "q"), box(4), 2, (16,), "relu"), torch.randn(3, 9, 4)
    action = torch.randn(3, 9, 2)
    q = net(obs, action)
    assert q.shape == (3, 2, 9)
    torch.testing.assert_close(rows_of(net, slice(2, 4))(obs[1:2], action[1:2]), q[1:2])


def test_heads_have_their_shapes() -> None:
    obs = torch.randn(3, 9, 4)
    assert QNetwork(Init(SEEDS, "q"), box(4), 5, (16, 16), "relu")(obs).shape == (3, 9, 5)
    mean, log_std = SquashedGaussian(Init(SEEDS, "pi"), box(4), 2, (16,), "relu")(obs * 1000)
    assert mean.shape == log_std.shape == (3, 9, 2)
    assert float(log_std.detach().max()) <= 2 and float(log_std.detach().min()) >= -20


def test_convolution_is_each_replicas_own() -> None:
    layer = Conv2d(Init(SEEDS, "conv"), 1, 2, 4, 3, 1)
    x = torch.randn(3, 5, 2, 8, 8)
    expected = torch.nn.functional.conv2d(x[1], layer.weight[1], layer.bias[1])
    torch.testing.assert_close(layer(x)[1], expected)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
@pytest.mark.parametrize("stack", [1, 3])
def test_layer_norm_is_each_replicas_own(stack: int, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    layer = LayerNorm(stack, shape)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=g))
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=g))
    x = (torch.randn(stack, 6, *shape, generator=g) * 3 + 1).requires_grad_()
    row = stack - 1
    theirs = torch.nn.LayerNorm(shape)
    theirs.load_state_dict({"weight": layer.weight[row, 0], "bias": layer.bias[row, 0]})
    out, expected = layer(x), theirs(x[row])
    torch.testing.assert_close(out[row], expected)
    torch.testing.assert_close(layer.one(row)(x[row]), expected)
    ours = torch.autograd.grad(out[row].pow(3).sum(), [x, layer.weight, layer.bias])
    own = torch.autograd.grad(expected.pow(3).sum(), [x, theirs.weight, theirs.bias])
    torch.testing.assert_close(ours[0], own[0], rtol=1e-4, atol=1e-4)
    for a, b in zip(ours[1:], own[1:], strict=True):
        torch.testing.assert_close(a[row, 0], b, rtol=1e-4, atol=1e-4)
