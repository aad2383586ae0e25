import torch

from worker.rl import memory


def test_keeping_freed_memory_changes_no_result() -> None:
    memory.keep_freed()
    blocks = [torch.ones(2**20) * i for i in range(8)]
    assert [int(block[0]) for block in blocks] == list(range(8))
