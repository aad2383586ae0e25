"""Agents that see images: stacked frames reach them, their bundles and the replay, and memory stays what it is."""

import json
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from worker.rl.drivers import train
from worker.rl.reporter import MemoryReporter

DQN = {"name": "dqn", "batch_size": 16, "learning_starts": 64, "buffer_size": 500, "train_every": 4}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dqn": DQN,
    "rainbow": DQN | {"name": "rainbow", "v_min": -1.0, "v_max": 10.0},
    "ppo": {"name": "ppo", "num_steps": 32, "num_minibatches": 2, "epochs": 1},
    "pqn": {"name": "pqn", "num_steps": 32, "num_minibatches": 2, "epochs": 1},
}


def spec(algorithm: dict[str, Any], total_env_steps: int, **environment: Any) -> ExperimentSpec:
    training = {"total_env_steps": total_env_steps, "evaluate_every": total_env_steps, "evaluation_episodes": 1}
    given = {"environment": environment, "algorithm": algorithm, "training": training, "seeds": [0, 1]}
    return resolve(ExperimentSpec.model_validate(given))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_agent_and_its_bundle_take_stacked_frames(name: str) -> None:
    reporter = MemoryReporter([0, 1])
    train(spec(ALGORITHMS[name], 512, id="MinAtar/Breakout-v1", frame_stack=2), [0, 1], reporter)
    assert [reporter.finished[seed][0] for seed in (0, 1)] == ["succeeded"] * 2
    *_, (_, kind, files, _) = reporter.checkpoints[0]
    assert kind == "final"
    bundle = json.loads(files["bundle.json"])
    observation = bundle["observation"]
    assert (observation["shape"], observation["high"], bundle["frame_stack"]) == ([10, 10, 8], [1.0], 2)
    session = onnxruntime.InferenceSession(files["policy.onnx"])
    (out,) = session.run(None, {"observation": np.ones((5, 10, 10, 8), np.uint8)})
    assert out.shape == (5, 3) and np.isfinite(out).all()


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_a_run_that_went_on_is_the_run_that_never_stopped(name: str) -> None:
    """Stacks begin anew where a checkpoint cuts episodes, and the replay knows it."""
    whole, resumed = MemoryReporter([0, 1]), MemoryReporter([0, 1])
    given = spec(ALGORITHMS[name], 1024, id="MinAtar/Asterix-v1", frame_stack=3)
    given = given.model_copy(update={"training": given.training.model_copy(update={"checkpoint_every": 512})})
    train(given, [0, 1], whole)
    ((env_step, state),) = whole.states
    assert env_step == 512
    train(given, [0, 1], resumed, resume=state)
    for seed in (0, 1):
        (*_, ours), (*_, theirs) = whole.checkpoints[seed], resumed.checkpoints[seed]
        assert ours[2]["weights.safetensors"] == theirs[2]["weights.safetensors"]


@pytest.mark.slow
def test_pong_takes_no_more_memory_with_time() -> None:
    """From when the replay, of 500 env steps, is full."""
    held: list[int] = []

    class Watched(MemoryReporter):
        def progress(self, env_step: int) -> None:
            super().progress(env_step)
            if env_step % 500 == 0:
                held.append(psutil.Process().memory_info().rss)

    one = spec(DQN | {"train_every": 8}, 2500, id="ALE/Pong-v5").model_copy(update={"seeds": (0,)})
    reporter = Watched([0])
    train(one, [0], reporter)
    assert reporter.finished[0][0] == "succeeded"
    assert held[-1] - held[1] < 20 * 2**20, [now // 2**20 for now in held]
