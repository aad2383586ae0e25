import pytest
import torch
from torch import nn

from tests.rl.toys import box
from worker.rl.algorithms.agent import replica_of
from worker.rl.nets.layers import Init
from worker.rl.nets.q_network import QNetwork


class Scaled(nn.Module):
    """A network with a parameter of its own beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = QNetwork(Init([1, 2], "q"), box(3), 2, (4,), "relu")
        self.scale = nn.Parameter(torch.ones(2, 1, 1))


@pytest.mark.parametrize("side", [36, 10])
def test_a_replicas_copy_shares_no_memory_with_the_agent(side: int) -> None:
    network = QNetwork(Init([1, 2], "q"), box(side, side, 3), 2, (), "relu")
    copied = replica_of(network, 1)
    live = {p.untyped_storage().data_ptr() for p in network.parameters()}
    assert not any(p.untyped_storage().data_ptr() in live for p in copied.parameters())


def test_a_parameter_that_would_stay_shared_is_noticed() -> None:
    with pytest.raises(AssertionError, match="shared with the agent"):
        replica_of(Scaled(), 0)
