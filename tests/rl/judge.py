"""What "reach" means: the best checkpoint, played again on fresh episodes in environments of its own."""

import json

import numpy as np
import onnxruntime

from app.schemas.environments import MultiDiscreteSpace
from app.schemas.experiment import ExperimentSpec
from worker.rl import envs
from worker.rl.drivers import train
from worker.rl.reporter import MemoryReporter, PolicyFiles


def trained(spec: ExperimentSpec, seeds: list[int], *, packed: bool) -> MemoryReporter:
    """Train the seeds, together or one by one."""
    reporter = MemoryReporter(seeds)
    if packed:
        train(spec, seeds, reporter)
        return reporter
    for seed in seeds:
        alone = MemoryReporter([seed])
        train(spec, [seed], alone)
        reporter.checkpoints |= alone.checkpoints
        reporter.finished |= alone.finished
    return reporter


def returns(spec: ExperimentSpec, reporter: MemoryReporter, *, episodes: int = 100) -> dict[int, float]:
    """Mean return of each run's best checkpoint over so many fresh episodes, by seed."""
    best = {
        seed: [files for _, kind, files, _ in saved if kind == "best"][-1]
        for seed, saved in reporter.checkpoints.items()
    }
    return {seed: float(play(spec, files, episodes).mean()) for seed, files in best.items()}


def play(spec: ExperimentSpec, files: PolicyFiles, episodes: int) -> np.ndarray:
    """Returns of one episode in each of ``episodes`` environments, by the exported graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(files["policy.onnx"], options, providers=["CPUExecutionProvider"])
    distribution = json.loads(files["bundle.json"])["distribution"]
    env = envs.make(spec.environment, [987_654_321], episodes, purpose="judge")
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
