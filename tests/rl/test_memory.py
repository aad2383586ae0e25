import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from worker.rl import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(2**20) for _ in range(8)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

handed_back = faults()
memory.keep_freed()
faults()
print(handed_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept() -> None:
    """In a process of its own, which it changes for good: the pages of tensors are not asked for again."""
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    handed_back, kept = map(int, output.split())
    assert kept < handed_back / 10
