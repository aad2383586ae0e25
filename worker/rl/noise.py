"""Randomness as an input: named streams of numbers, one per replica, whose state is one integer.

A stream is cut into blocks of fixed size; block ``b`` of stream ``s`` of a run comes from a generator seeded by
(run seed, s, b). So the numbers a run sees depend neither on its neighbours in the pack nor on how many are asked for
at a time, and a position in the stream is all there is to save. Replicas run in lockstep and share the positions.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

BLOCK = 4096
"""Numbers per replica and block."""

_Fill = Callable[[Tensor, torch.Generator], object]


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for one purpose of a run, independent of those for other labels."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _gumbel(out: Tensor, generator: torch.Generator) -> None:
    out.exponential_(generator=generator).log_().neg_()


def _uniform(out: Tensor, generator: torch.Generator) -> None:
    out.uniform_(generator=generator)


def _normal(out: Tensor, generator: torch.Generator) -> None:
    out.normal_(generator=generator)


def _bits(out: Tensor, generator: torch.Generator) -> None:
    out.random_(generator=generator)


class Noise:
    """Named random streams of the runs with these ``seeds``. Results are (R, *shape) and must not be written to.

    A stream is told apart by its name *and* its distribution; draw from it in the same order to get the same numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", *, purpose: str = "train") -> None:
        self.seeds = list(seeds)
        self.device = torch.device(device)
        self._purpose = purpose
        self._positions: dict[str, int] = {}
        self._blocks: dict[str, tuple[int, Tensor]] = {}
        self._generator = torch.Generator(self.device)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Uniform on [0, 1)."""
        return self._draw(f"uniform/{stream}", shape, _uniform, torch.float32)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal."""
        return self._draw(f"normal/{stream}", shape, _normal, torch.float32)

    def gumbel(self, stream: str, *shape: int) -> Tensor:
        """Standard Gumbel: ``argmax(logits + gumbel)`` samples the categorical distribution of the logits."""
        return self._draw(f"gumbel/{stream}", shape, _gumbel, torch.float32)

    def integers(self, stream: str, high: int, *shape: int) -> Tensor:
        """Uniform int64 on [0, high). The modulo's bias is below high / 2**63."""
        return self._draw(f"integers/{stream}", shape, _bits, torch.int64) % high

    def permutation(self, stream: str, n: int) -> Tensor:
        """A permutation of 0 .. n - 1 per replica, (R, n) int64. Counts as one number of its stream."""
        key = f"permutation/{stream}"
        index = self._positions.get(key, 0)
        self._positions[key] = index + 1
        generators = (self._seeded(seed, key, index) for seed in self.seeds)
        return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in generators])

    def state(self) -> dict[str, int]:
        """Numbers consumed per stream."""
        return dict(self._positions)

    def load(self, state: dict[str, int]) -> None:
        """Go on from a saved position of every stream."""
        self._positions = dict(state)
        self._blocks.clear()

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order."""
        self.seeds = [self.seeds[i] for i in keep]
        self._blocks.clear()

    def _draw(self, key: str, shape: tuple[int, ...], fill: _Fill, dtype: torch.dtype) -> Tensor:
        count = 1
        for side in shape:
            count *= side
        position = self._positions.get(key, 0)
        self._positions[key] = position + count
        block, start = divmod(position, BLOCK)
        values = self._block(key, block, fill, dtype)[:, start : start + count]
        if start + count > BLOCK:
            parts = [values]
            last, end = divmod(position + count, BLOCK)
            parts += [self._block(key, b, fill, dtype) for b in range(block + 1, last)]
            if end:
                parts.append(self._block(key, last, fill, dtype)[:, :end])
            values = torch.cat(parts, 1)
        return values if len(shape) == 1 else values.view(len(self.seeds), *shape)

    def _block(self, key: str, index: int, fill: _Fill, dtype: torch.dtype) -> Tensor:
        held = self._blocks.get(key)
        if held is not None and held[0] == index:
            return held[1]
        # A new tensor each time: an autograd graph may still hold views of the last one.
        values = torch.empty(len(self.seeds), BLOCK, dtype=dtype, device=self.device)
        for row, seed in zip(values, self.seeds, strict=True):
            fill(row, self._seeded(seed, key, index))
        self._blocks[key] = (index, values)
        return values

    def _seeded(self, seed: int, key: str, index: int) -> torch.Generator:
        return self._generator.manual_seed(derive_seed(seed, self._purpose, key, index))
