"""What every algorithm of the union must satisfy, in every kind of environment it says it takes."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.schemas.algorithms import AlgorithmConfig, algorithms
from app.schemas.experiment import ExperimentSpec
from tests.rl import toys
from worker.rl import envs
from worker.rl.algorithms.agent import Agent
from worker.rl.checkpoint import load_state, save_state
from worker.rl.drivers import train
from worker.rl.export import OUTPUTS
from worker.rl.noise import Noise
from worker.rl.reporter import MemoryReporter, State

SMALL: dict[str, Any] = {
    "hidden_sizes": (16, 16),
    "num_steps": 32,
    "num_minibatches": 4,
    "batch_size": 16,
    "buffer_size": 4_000,
    "learning_starts": 64,
    "train_every": 8,
    "gradient_steps": 2,
    "normalize_observation": True,
    "normalize_reward": True,
}
"""Set where an algorithm has the field."""
PLACES = {
    ("vector", "discrete"): "CartPole-v1",
    ("vector", "vector"): "Pendulum-v1",
    ("vector", "multi_discrete"): "Match-v0",
    ("image", "discrete"): "Flash-v0",
    ("discrete", "discrete"): "FrozenLake-v1",
}
SEEDS, NUM_ENVS, TOTAL = [11, 12, 13], 2, 640

Case = tuple[str, str]
CASES: list[Case] = [
    (name, environment)
    for name, config in algorithms().items()
    for (observed, acted), environment in PLACES.items()
    if observed in config.observation_spaces and acted in config.action_spaces
]
VECTORS = [case for case in CASES if case[1] != "Flash-v0"]


def spec_of(case: Case) -> ExperimentSpec:
    name, environment = case
    fields = {k: v for k, v in SMALL.items() if k in algorithms()[name].model_fields}
    return toys.spec(
        environment, {"name": name, **fields}, num_envs=NUM_ENVS, total=TOTAL, every=TOTAL // 4, episodes=2
    )


def run(case: Case, seeds: list[int] = SEEDS, **kwargs: Any) -> MemoryReporter:
    reporter = MemoryReporter(seeds)
    train(spec_of(case), seeds, reporter, **kwargs)
    return reporter


def build(case: Case, seeds: list[int] = SEEDS) -> tuple[Agent, envs.VectorEnv]:
    spec = spec_of(case)
    env = envs.make(spec.environment, seeds, NUM_ENVS)
    config: AlgorithmConfig = spec.algorithm
    module = import_module(f"worker.rl.algorithms.{config.module}")
    return module.build(config, env.spec, seeds, torch.device("cpu"), TOTAL, NUM_ENVS), env


def learned(state: State, replica: int) -> dict[str, Tensor]:
    """The agent's part of a state, of one replica."""
    return {k: v[replica] for k, v in state.tensors.items() if k.startswith("agent/") and v[replica].numel()}


def assert_equal(a: State, b: State) -> None:
    assert a.meta == b.meta and a.tensors.keys() == b.tensors.keys()
    different = [name for name, tensor in a.tensors.items() if not torch.equal(tensor, b.tensors[name])]
    assert different == []


@pytest.fixture(scope="module")
def runs() -> dict[Case, MemoryReporter]:
    return {}


@pytest.fixture
def reference(runs: dict[Case, MemoryReporter], case: Case) -> MemoryReporter:
    """One uninterrupted run per case, trained when first asked for."""
    if case not in runs:
        runs[case] = run(case)
    return runs[case]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_shapes(case: Case) -> None:
    agent, env = build(case)
    obs = torch.from_numpy(env.reset(0))
    for explore in (True, False):
        action = agent.act(obs, Noise(SEEDS), explore=explore).action
        assert action.shape == (len(SEEDS), NUM_ENVS, *env.spec.action_shape)
        assert action.dtype == env.spec.action_dtype
        env.step(action.numpy())
    answer = agent.policy(1)(obs[1])
    outputs = answer if isinstance(answer, tuple) else (answer,)
    assert len(outputs) == len(OUTPUTS[agent.distribution])
    assert all(output.shape == (NUM_ENVS, env.spec.action_dim) and output.isfinite().all() for output in outputs)
    assert agent.finite().tolist() == [True] * len(SEEDS)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_run_succeeds_with_finite_metrics(case: Case, reference: MemoryReporter) -> None:
    assert {outcome for outcome, _, _ in reference.finished.values()} == {"succeeded"}
    for seed in SEEDS:
        assert any(key.startswith("losses/") for key in reference.series[seed])
        assert all(np.isfinite(value) for points in reference.series[seed].values() for _, value in points)


@pytest.mark.parametrize("case", VECTORS, ids="-".join)
def test_a_run_is_a_function_of_spec_and_seed(case: Case, reference: MemoryReporter) -> None:
    assert_equal(run(case).states[-1][1], reference.states[-1][1])


@pytest.mark.parametrize("case", VECTORS, ids="-".join)
def test_packed_agrees_with_alone(case: Case, reference: MemoryReporter) -> None:
    alone = run(case, [12])
    packed = learned(reference.states[-1][1], 1)
    for name, tensor in learned(alone.states[-1][1], 0).items():
        torch.testing.assert_close(tensor, packed[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", VECTORS, ids="-".join)
def test_a_replica_does_not_feel_its_neighbours(case: Case, reference: MemoryReporter) -> None:
    other = run(case, [11, 99, 13])
    for replica in (0, 2):
        ours, theirs = learned(reference.states[-1][1], replica), learned(other.states[-1][1], replica)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not all(
        torch.equal(t, learned(other.states[-1][1], 1)[k]) for k, t in learned(reference.states[-1][1], 1).items()
    )


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_crash_changes_nothing(case: Case, reference: MemoryReporter, tmp_path: Path) -> None:
    save_state(reference.states[0][1], tmp_path / "state")
    resumed = run(case, resume=load_state(tmp_path / "state"))
    assert resumed.starts == [reference.states[0][0]]
    assert_equal(resumed.states[-1][1], reference.states[-1][1])
    for seed in SEEDS:
        assert resumed.checkpoints[seed][-1] == reference.checkpoints[seed][-1]
        assert resumed.finished[seed] == reference.finished[seed]


@pytest.mark.parametrize("case", VECTORS, ids="-".join)
def test_a_replica_taken_out_of_a_state_goes_on(case: Case, reference: MemoryReporter) -> None:
    taken = run(case, [13], resume=reference.states[0][1], replicas=[2])
    packed = learned(reference.states[-1][1], 2)
    for name, tensor in learned(taken.states[-1][1], 0).items():
        torch.testing.assert_close(tensor, packed[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_loaded_agent_acts_alike(case: Case) -> None:
    agent, env = build(case)
    other, _ = build(case, [1, 2, 3])
    other.load({k: v.clone() if isinstance(v, Tensor) else v for k, v in agent.state().items()})
    obs = torch.from_numpy(env.reset(0))
    for explore in (True, False):
        actions = [a.act(obs, Noise(SEEDS), explore=explore).action for a in (agent, other)]
        assert torch.equal(*actions)
    other.select([2, 0])
    selected = other.act(obs[[2, 0]], Noise([13, 11]), explore=False).action
    torch.testing.assert_close(selected, agent.act(obs, Noise(SEEDS), explore=False).action[[2, 0]])


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_run_on_a_gpu_resumes_there_and_here(case: Case) -> None:
    first = run(case, device="cuda")
    assert {outcome for outcome, _, _ in first.finished.values()} == {"succeeded"}
    assert all(np.isfinite(value) for points in first.series[11].values() for _, value in points)
    for device in ("cuda", "cpu"):
        resumed = run(case, device=device, resume=first.states[0][1])
        assert {outcome for outcome, _, _ in resumed.finished.values()} == {"succeeded"}
