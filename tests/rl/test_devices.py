"""Agents stay on their device: on one that holds no numbers nothing can be read back, nor made elsewhere unnoticed."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.rl.test_conformance import CASES, NUM_ENVS, SEEDS, TOTAL, Case, spec_of
from worker.rl import envs, precision
from worker.rl.noise import Noise
from worker.rl.types import Rollout, Transition

META = torch.device("meta")
STEPS, BATCH, FINALS = 32, 16, 3


class Shapes(Noise):
    """Draws as many numbers as are asked for, of no value."""

    def _draw(self, key: str, shape: tuple[int, ...], fill: object, dtype: torch.dtype) -> Tensor:
        return torch.empty(len(self.seeds), *shape, dtype=dtype, device=META)

    def permutation(self, stream: str, n: int) -> Tensor:
        return self._draw(stream, (n,), None, torch.int64)


class Elsewhere(TorchDispatchMode):
    """The operations that touch tensors of other devices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.device != META for x in tree_leaves((args, kwargs, out))):
            self.seen.add(str(func))
        return out


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_acting_and_learning_stay_on_the_device(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "of_large_products", lambda: "ieee")  # CUDA tensors don't ask
    spec = spec_of(case)
    env = envs.make(spec.environment, SEEDS, NUM_ENVS)
    build = import_module(f"worker.rl.algorithms.{spec.algorithm.module}").build
    agent = build(spec.algorithm, env.spec, SEEDS, META, TOTAL, NUM_ENVS)
    noise = Shapes(SEEDS)

    def of(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[..., Tensor]:
        return lambda *lead: torch.empty(len(SEEDS), *lead, *shape, dtype=dtype, device=META)

    obs = of(env.spec.observation_shape, env.spec.observation_dtype)
    action = of(env.spec.action_shape, env.spec.action_dtype)
    number, index, flag = of((), torch.float32), of((), torch.int64), of((), torch.bool)
    batch: Rollout | Transition
    if agent.driver == "on_policy":
        lead = STEPS, NUM_ENVS
        seen = (obs(*lead), action(*lead), number(*lead), flag(*lead), flag(*lead))
        batch = Rollout(*seen, obs(NUM_ENVS), obs(FINALS), index(FINALS))
    else:
        n = NUM_ENVS if agent.driver == "tabular" else BATCH
        batch = Transition(obs(n), action(n), number(n), number(n), obs(n), number(n), flag(n))
    with Elsewhere() as elsewhere:
        for explore in (True, False):
            assert agent.act(obs(NUM_ENVS), noise, explore=explore).action.device == META
        for _ in range(2):
            update = agent.update(batch, noise)
        reported = [agent.finite(), *update.metrics.values()]
        agent.select([2, 0])
    assert elsewhere.seen == set() and all(x.device == META for x in reported)
