"""A policy that is somewhere else, as a function."""

from collections.abc import Callable, Sequence
from typing import Any


class RemotePolicy:
    """Calls a service for every action: ``action = policy(observation)``.

    Observations are lists of numbers or anything with ``tolist()``, such as arrays.
    """

    def __init__(self, act: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._act = act

    def __call__(self, observation: Any) -> Any:
        """The action for one observation."""
        return self.batch([observation])[0]

    def batch(self, observations: Sequence[Any]) -> list[Any]:
        """One action per observation, in one request."""
        return self._act([o.tolist() if hasattr(o, "tolist") else o for o in observations])
