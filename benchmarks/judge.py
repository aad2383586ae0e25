"""What "reach" means: a policy bundle, played on fresh episodes in environments of its own."""

import json

import numpy as np
import onnxruntime

from app.schemas.environments import MultiDiscreteSpace
from app.schemas.experiment import EnvironmentSpec
from worker.rl import envs
from worker.rl.reporter import PolicyFiles


def play(environment: EnvironmentSpec, files: PolicyFiles, episodes: int) -> np.ndarray:
    """Returns of one episode in each of ``episodes`` environments, by the exported graph's most likely actions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(files["policy.onnx"], options, providers=["CPUExecutionProvider"])
    distribution = json.loads(files["bundle.json"])["distribution"]
    env = envs.make(environment, [987_654_321], episodes, purpose="judge")
    obs, running, total = env.reset(0), np.ones(episodes, bool), np.zeros(episodes)
    while running.any():
        first = session.run(None, {"observation": obs[0]})[0]
        step = env.step(_action(distribution, first, env.spec)[None])
        total += step.reward[0] * running
        running &= ~(step.terminated | step.truncated)[0]
        obs = step.obs
    env.close()
    return total


def _action(distribution: str, output: np.ndarray, spec: envs.EnvSpec) -> np.ndarray:
    if distribution == "gaussian":
        return output
    if distribution == "tanh_gaussian":
        low, high = spec.action_low.numpy(), spec.action_high.numpy()
        return low + (np.tanh(output) + 1) / 2 * (high - low)
    if isinstance(space := spec.action_space, MultiDiscreteSpace):
        parts = np.split(output, np.cumsum(space.nvec)[:-1], -1)
        return np.stack([logits.argmax(-1) for logits in parts], -1)
    return output.argmax(-1)
