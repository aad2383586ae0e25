from typing import Any

import pytest
import torch
import torch.nn.functional as F

from app.schemas import experiment, packing
from tests.rl.toys import box
from worker.rl.algorithms.agent import replica_of
from worker.rl.errors import UnsupportedSpace
from worker.rl.nets.convolutions import PatchConv2d
from worker.rl.nets.heads import ActorCritic, Critics, SquashedGaussian
from worker.rl.nets.layers import Init
from worker.rl.nets.q_network import QNetwork
from worker.rl.nets.torsos import NatureCNN, SmallCNN, torso_for

SEEDS = [5, 6, 7]


def images(*shape: int, high: int = 255) -> torch.Tensor:
    return torch.randint(0, high + 1, (3, 2, *shape), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "kind", "features"),
    [
        ((84, 84, 4), NatureCNN, 512),
        ((4, 84, 84), NatureCNN, 512),
        ((36, 40, 3), NatureCNN, 512),
        ((35, 40, 3), SmallCNN, 128),
        ((10, 10, 40), SmallCNN, 128),
        ((3, 10, 10), SmallCNN, 128),
    ],
)
def test_an_image_gets_the_torso_of_its_size_in_either_layout(
    shape: tuple[int, ...], kind: type[Any], features: int
) -> None:
    torso, width = torso_for(Init(SEEDS, "cnn"), box(*shape))
    assert isinstance(torso, kind) and width == features
    assert torso(images(*shape)).shape == (3, 2, features)


def test_the_service_reckons_with_these_sizes() -> None:
    assert NatureCNN.smallest == packing.LARGE_IMAGE and NatureCNN.features == experiment.IMAGE_FEATURES
    assert (SmallCNN.filters, SmallCNN.features) == (packing.SMALL_IMAGE_MAPS, packing.SMALL_IMAGE_FEATURES)


def test_vectors_get_none() -> None:
    assert torso_for(Init(SEEDS, "cnn"), box(7)) == (None, 7)


@pytest.mark.parametrize("torso", [NatureCNN, SmallCNN])
def test_layouts_agree(torso: type[Any]) -> None:
    last, first = torso(Init(SEEDS, "cnn"), box(40, 44, 3)), torso(Init(SEEDS, "cnn"), box(3, 40, 44))
    obs = images(40, 44, 3)
    torch.testing.assert_close(last(obs), first(obs.movedim(-1, -3).contiguous()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("torso", [NatureCNN, SmallCNN])
def test_pixels_are_scaled_by_the_bound_of_their_space(torso: type[Any]) -> None:
    obs = images(40, 40, 2, high=1)
    bits, levels = (torso(Init(SEEDS, "cnn"), box(40, 40, 2, high=high)) for high in (1.0, 255.0))
    torch.testing.assert_close(bits(obs), levels(obs * 255), rtol=1e-4, atol=1e-4)


def test_every_head_takes_images() -> None:
    obs, space, action = images(10, 10, 4), box(10, 10, 4), torch.randn(3, 2, 2)
    out, value = ActorCritic(Init(SEEDS, "net"), space, 2, (64,), "tanh")(obs)
    assert out.shape == (3, 2, 2) and value.shape == (3, 2)
    assert QNetwork(Init(SEEDS, "net"), space, 5, (64,), "relu")(obs).shape == (3, 2, 5)
    assert SquashedGaussian(Init(SEEDS, "net"), space, 4, (64,), "relu")(obs)[0].shape == (3, 2, 4)
    assert Critics(Init(SEEDS, "net"), space, 2, (64,), "relu")(obs, action).shape == (3, 2, 2)


def test_smaller_than_a_filter_is_refused() -> None:
    with pytest.raises(UnsupportedSpace, match="at least 3 pixels"):
        torso_for(Init(SEEDS, "cnn"), box(2, 9, 1))


def test_a_product_over_patches_is_the_convolution() -> None:
    layer = PatchConv2d(Init(SEEDS, "conv"), 1, 5, 4, 3).double()
    x = torch.randn(3, 6, 7, 9, 5, dtype=torch.float64, requires_grad=True)
    weight = layer.weight[1].T.reshape(4, 3, 3, 5).permute(0, 3, 1, 2)
    expected = F.conv2d(x[1].permute(0, 3, 1, 2), weight, layer.bias[1, 0]).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x)[1], expected)
    ours, theirs = (torch.autograd.grad((y**2).sum(), [layer.weight, x]) for y in (layer(x)[1], expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_replica_alone_is_what_it_was_in_the_stack() -> None:
    network, obs = QNetwork(Init(SEEDS, "q"), box(10, 10, 4), 3, (), "relu"), images(10, 10, 4)
    torch.testing.assert_close(replica_of(network, 1)(obs[1]), network(obs)[1], rtol=1e-4, atol=1e-4)
