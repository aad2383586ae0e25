"""Bundles: the graph answers what the agent acts, for every kind of policy, and the server can load it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from app.schemas.bundle import PolicyBundle
from app.schemas.environments import BoxSpace, DiscreteSpace
from app.schemas.experiment import ExperimentSpec
from app.serving.policy import load
from worker.rl.algorithms import dqn, ppo, pqn, sac, tabular
from worker.rl.algorithms.agent import Agent
from worker.rl.envs.spaces import EnvSpec
from worker.rl.errors import ParityError
from worker.rl.export import TOLERANCE, _parity_error, _trace, export_policy
from worker.rl.noise import Noise

BUILDERS: dict[str, Any] = {
    "ppo": ppo.build,
    "dqn": dqn.build,
    "iqn": dqn.build,
    "rainbow": dqn.build,
    "sac": sac.build,
    "pqn": pqn.build,
    "sarsa": tabular.build,
}
SEEDS = [3, 4]

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
BITS = spaces.Box(0, 1, (10, 10, 4), np.uint8)
BOX = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
CASES: dict[str, tuple[dict[str, Any], spaces.Space[Any], spaces.Space[Any]]] = {
    "ppo-discrete": ({"name": "ppo"}, VECTOR, spaces.Discrete(3, start=1)),
    "ppo-multi-discrete": ({"name": "ppo"}, VECTOR, spaces.MultiDiscrete([2, 3])),
    "ppo-box-normalized": ({"name": "ppo", "normalize_observation": True}, VECTOR, BOX),
    "ppo-image": ({"name": "ppo"}, IMAGE, spaces.Discrete(4)),
    "dqn": ({"name": "dqn", "hidden_sizes": [32]}, VECTOR, spaces.Discrete(3)),
    "dqn-image": ({"name": "dqn"}, IMAGE, spaces.Discrete(3)),
    "dqn-small-image": ({"name": "dqn"}, BITS, spaces.Discrete(3)),
    "iqn": ({"name": "iqn", "dueling": True, "hidden_sizes": [32, 32]}, VECTOR, spaces.Discrete(3)),
    "rainbow-image": ({"name": "rainbow"}, IMAGE, spaces.Discrete(3)),
    "sac": ({"name": "sac", "hidden_sizes": [32, 32]}, VECTOR, BOX),
    "pqn": ({"name": "pqn", "hidden_sizes": [32]}, VECTOR, spaces.Discrete(3)),
    "pqn-image": ({"name": "pqn"}, IMAGE, spaces.Discrete(3)),
    "pqn-small-image": ({"name": "pqn"}, BITS, spaces.Discrete(3)),
    "tabular": ({"name": "sarsa"}, spaces.Discrete(6, start=-2), spaces.Discrete(3, start=1)),
}


def make(case: str) -> tuple[Agent, EnvSpec, ExperimentSpec]:
    """An agent of two replicas whose normaliser, if any, has seen something."""
    algorithm, observation_space, action_space = CASES[case]
    spec = ExperimentSpec.model_validate(
        {"environment": {"id": "Test-v0", "kwargs": {"size": 5}}, "algorithm": algorithm, "seeds": SEEDS}
    )
    env_spec = EnvSpec.of("Test-v0", observation_space, action_space)
    agent = BUILDERS[spec.algorithm.name](spec.algorithm, env_spec, SEEDS, torch.device("cpu"), 1000, 4)
    if getattr(agent, "observations", None) is not None:
        agent.observations.update(torch.randn(2, 100, 5) * 3 + 1)
    if isinstance(agent, tabular.Tabular):
        agent.q.normal_()
    return agent, env_spec, spec


def observations(env_spec: EnvSpec) -> Tensor:
    """Two replicas' batches of seven."""
    shape = (2, 7, *env_spec.observation_shape)
    if env_spec.image:
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    if isinstance(states := env_spec.observation_space, DiscreteSpace):
        return torch.randint(states.start, states.start + states.n, shape)
    return torch.randn(shape)


@pytest.mark.parametrize("case", CASES)
class TestEveryPolicy:
    def test_the_server_acts_like_the_agent(self, case: str, tmp_path: Path) -> None:
        """The adapter clips boxes and counts from a discrete space's start; here the server does."""
        agent, env_spec, spec = make(case)
        obs = observations(env_spec)
        acted = agent.act(obs, Noise(SEEDS, "cpu"), explore=False).action
        for replica in range(2):
            folder = tmp_path / str(replica)
            folder.mkdir()
            manifest = []
            for name, content in export_policy(agent, replica, env_spec, spec).items():
                (folder / name).write_bytes(content)
                manifest.append({"name": name, "sha256": hashlib.sha256(content).hexdigest()})
            answer = load("ckpt_1", folder, manifest).act(obs[replica].numpy(), seed=None)
            expected = acted[replica].numpy()
            match env_spec.action_space:
                case BoxSpace(low=low, high=high):
                    expected = np.clip(expected, low, high)  # type: ignore[arg-type]
                case DiscreteSpace(start=start):
                    expected = expected + start
            assert answer.shape == expected.shape
            assert np.abs(answer - expected).max() < 1e-5

    def test_replicas_export_their_own_weights(self, case: str) -> None:
        agent, env_spec, spec = make(case)
        first, second = (export_policy(agent, replica, env_spec, spec) for replica in range(2))
        assert first["policy.onnx"] != second["policy.onnx"]
        assert first["policy.onnx"] == export_policy(agent, 0, env_spec, spec)["policy.onnx"]

    def test_files(self, case: str) -> None:
        agent, env_spec, spec = make(case)
        files = export_policy(agent, 1, env_spec, spec)
        assert set(files) == {"policy.onnx", "bundle.json", "weights.safetensors"}
        onnx.checker.check_model(onnx.load_from_string(files["policy.onnx"]), full_check=True)
        bundle = PolicyBundle.model_validate_json(files["bundle.json"])
        assert bundle.algorithm == spec.algorithm.name and bundle.distribution == agent.distribution
        assert (bundle.environment_id, bundle.environment_kwargs) == ("Test-v0", {"size": 5})
        assert (bundle.observation, bundle.action) == (env_spec.observation_space, env_spec.action_space)
        assert 0 <= bundle.parity_error < 1e-5
        assert bundle.lineage is None
        state = agent.policy(1).state_dict()
        weights = load_tensors(files["weights.safetensors"])
        assert weights.keys() == state.keys()
        assert all(torch.equal(weights[name], state[name]) for name in state)

    def test_later_updates_do_not_change_an_exported_policy(self, case: str) -> None:
        agent, env_spec, _ = make(case)
        policy, obs = agent.policy(0), observations(env_spec)[0]
        before = policy(obs)
        with torch.no_grad():
            for value in agent.state().values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    value.add_(1.0)
        after = policy(obs)
        pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
        assert all(torch.equal(was, now) for was, now in pairs)


def test_the_graph_is_as_plain_as_the_network() -> None:
    agent, env_spec, spec = make("dqn")
    graph = onnx.load_from_string(export_policy(agent, 0, env_spec, spec)["policy.onnx"]).graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm"]


class Forked(nn.Module):
    """Answers differently once traced, or with what is not a number."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, obs: Tensor) -> Tensor:
        return obs[:, :3] if torch.jit.is_tracing() else obs[:, :3] + self.offset


@pytest.mark.parametrize("offset", [1e-2, float("nan")])
def test_a_graph_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    agent, env_spec, spec = make("dqn")
    monkeypatch.setattr(agent, "policy", lambda replica: Forked(offset))
    with pytest.raises(ParityError, match="differs from the trained one"):
        export_policy(agent, 0, env_spec, spec)


def test_any_batch_size() -> None:
    agent, env_spec, spec = make("ppo-discrete")
    session = onnxruntime.InferenceSession(export_policy(agent, 0, env_spec, spec)["policy.onnx"])
    for batch in (1, 2, 65):
        (logits,) = session.run(["logits"], {"observation": np.zeros((batch, 5), np.float32)})
        assert logits.shape == (batch, 3)


@pytest.mark.parametrize("near", [-1, 0], ids=["in-a-batch", "also-alone"])
def test_a_value_near_zero_is_judged_by_the_greatest(near: int) -> None:
    """Values of a well-trained policy: thousands for what was probed far away, nearly nothing somewhere else."""
    generator = torch.Generator().manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        policy[0].bias.zero_()
        probe = torch.randn(16, 4, generator=generator) * torch.logspace(-1, 1, 16).unsqueeze(1)
        probe[0] = 9 * torch.randn(4, generator=generator)
        policy[2].weight.mul_(5_000 / policy(probe).abs().max())
        far = policy(probe)
        policy[2].bias.sub_(far[near])  # this observation's values come to nothing: all they had is rounding
        graph = _trace(policy, probe, ("q_values",))
        assert policy(probe).abs().max() > 1_000 > 1e-2 > policy(probe)[near].abs().max()
    assert _parity_error(policy, graph, probe, ("q_values",)) < TOLERANCE / 10


def test_rounding_of_terms_that_cancel_is_no_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 2))
    with torch.no_grad():
        first, last = policy[0], policy[2]
        first.weight.copy_(100 * torch.randn(128, 4, generator=generator).repeat(2, 1))
        first.bias.zero_()
        half = 100 * torch.randn(2, 128, generator=generator)
        last.weight.copy_(torch.cat((half, -half), 1))
    probe = torch.randn(64, 4, generator=generator) * torch.logspace(-1, 1, 64).unsqueeze(1)
    graph = _trace(policy, probe, ("q_values",))
    assert _parity_error(policy, graph, probe, ("q_values",)) > TOLERANCE
