"""From an agent to a policy bundle: ``policy.onnx``, ``bundle.json`` and ``weights.safetensors``.

The graph is traced by torch's TorchScript exporter: it takes milliseconds, where the one built on ``torch.export``
takes seconds at first and a third of a second afterwards, and these networks are straight lines.
"""

import io
import warnings
from copy import deepcopy
from typing import Any, Final, cast

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from app.schemas.bundle import PolicyBundle
from app.schemas.environments import DiscreteSpace, brightest
from app.schemas.experiment import ExperimentSpec
from worker.rl.algorithms.agent import Agent
from worker.rl.envs.spaces import EnvSpec
from worker.rl.errors import ParityError
from worker.rl.reporter import PolicyFiles

TOLERANCE: Final = 1e-4
"""Largest difference between the graph's and torch's outputs, absolute where none is beyond 1, else relative to the
greatest: what is near zero beside it is the difference of terms as great."""
OPSET: Final = 17
PROBE_BATCH: Final = 16

OUTPUTS: Final = {
    "categorical": ("logits",),
    "multi_categorical": ("logits",),
    "gaussian": ("mean", "log_std"),
    "tanh_gaussian": ("mean", "log_std"),
    "epsilon_greedy": ("q_values",),
}


def export_policy(agent: Agent, replica: int, env_spec: EnvSpec, spec: ExperimentSpec) -> PolicyFiles:
    """The files of one replica's checkpoint. The bundle's ``lineage`` is left to whoever knows the run.

    Raises:
        ParityError: the graph answers differently from the network, or not with finite numbers.
    """
    policy = agent.policy(replica).cpu().eval()
    names = OUTPUTS[agent.distribution]
    probe = _probe(env_spec)
    model = _trace(policy, probe[:2], names)
    bundle = PolicyBundle(
        algorithm=spec.algorithm.name,
        environment_id=spec.environment.id,
        environment_kwargs=spec.environment.kwargs,
        observation=env_spec.observation_space,
        frame_stack=env_spec.frame_stack,
        action=env_spec.action_space,
        distribution=agent.distribution,
        epsilon=agent.epsilon,
        parity_error=_parity_error(policy, model, probe, names),
    )
    return {
        "policy.onnx": model,
        "bundle.json": bundle.model_dump_json(indent=2).encode(),
        "weights.safetensors": save({name: value.detach().clone() for name, value in policy.state_dict().items()}),
    }


def _probe(env_spec: EnvSpec) -> Tensor:
    """Observations (PROBE_BATCH, …) of sizes from a tenth to ten, or random images or states."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_BATCH, *env_spec.observation_shape)
    if isinstance(space := env_spec.observation_space, DiscreteSpace):
        return torch.randint(space.start, space.start + space.n, shape, generator=generator)
    if env_spec.image:
        return torch.randint(0, brightest(env_spec.observation_box) + 1, shape, generator=generator, dtype=torch.uint8)
    scale = torch.logspace(-1, 1, PROBE_BATCH)
    return torch.randn(shape, generator=generator) * scale.reshape(-1, *[1] * len(shape[1:]))


def _trace(policy: nn.Module, observation: Tensor, names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter
        warnings.simplefilter("ignore", TracerWarning)  # of branches on shapes
        torch.onnx.export(
            policy,
            (observation,),
            cast("str", buffer),  # a path, says its signature, but streams are taken too
            dynamo=False,
            opset_version=OPSET,
            input_names=["observation"],
            output_names=list(names),
            dynamic_axes={name: {0: "batch"} for name in ("observation", *names)},
        )
    return buffer.getvalue()


def _parity_error(policy: nn.Module, model: bytes, probe: Tensor, names: tuple[str, ...]) -> float:
    """How far the graph is from the network on the probe, in one batch and one by one."""
    with torch.no_grad():
        answer: Any = policy(probe)
    expected = [output.numpy() for output in (answer if isinstance(answer, tuple) else (answer,))]
    session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    whole = session.run(list(names), {"observation": probe.numpy()})
    single = session.run(list(names), {"observation": probe[:1].numpy()})
    error = max(
        _difference(np.concatenate((together, alone)), np.concatenate((want, want[:1])))  # by the same greatest
        for together, alone, want in zip(whole, single, expected, strict=True)
    )
    if not error <= max(TOLERANCE, 4 * _rounding(policy, probe, expected)):  # also when it is NaN
        raise ParityError(f"the exported policy differs from the trained one by {error:.2g}; {TOLERANCE:g} is allowed")
    return error


def _rounding(policy: nn.Module, probe: Tensor, expected: list[np.ndarray]) -> float:
    """How far float32 itself takes the network from its exact outputs: far, where large terms cancel."""
    if not probe.is_floating_point():
        return 0.0
    with torch.no_grad():
        answer: Any = deepcopy(policy).double()(probe.double())
    exact = [output.numpy() for output in (answer if isinstance(answer, tuple) else (answer,))]
    return max(_difference(got, want) for got, want in zip(expected, exact, strict=True))


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest of one output's differences, by what :data:`TOLERANCE` goes by."""
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
