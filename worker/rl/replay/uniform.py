"""Uniform experience replay (Lin 1992; Mnih et al. 2015)."""

from collections.abc import Iterator

from torch import Tensor

from worker.rl.noise import Noise
from worker.rl.replay.base import Replay
from worker.rl.types import Transition

AT_ONCE = 32 * 2**20
"""Bytes of observations gathered at once, about."""


class Uniform(Replay):
    """Draws transitions with equal probability, with replacement, many batches at once."""

    def sample(self, noise: Noise, batches: int, batch_size: int, done: float) -> Iterator[Transition]:
        """Draw batches; there is nothing to be weighted."""
        held = 2 * batch_size * len(self.ring.obs) * self.ring.obs_bytes
        at_once = max(1, AT_ONCE // held)
        for start in range(0, batches, at_once):
            drawn = min(at_once, batches - start)
            place = self.ring.place(noise.integers("replay", len(self), drawn, batch_size).movedim(0, 1).cpu().numpy())
            if drawn == 1:
                yield self._transition(place[0])
            else:
                yield from map(Transition, *self._transition(place)[:5])

    def update(self, priority: Tensor | None) -> None:
        """All stay as likely as they were."""
