"""Act, remember, learn from what is remembered."""

from contextlib import closing
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from app.schemas.environments import BoxSpace, channel_axis
from worker.rl.drivers.loop import Loop
from worker.rl.drivers.pack import Pack
from worker.rl.envs import EnvSpec, VectorEnv
from worker.rl.noise import Noise
from worker.rl.replay.base import Replay
from worker.rl.replay.prioritized import Prioritized
from worker.rl.replay.ring import Ring
from worker.rl.replay.uniform import Uniform

EMIT_EVERY = 1000
"""Env steps between two points of a metric."""
NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.uint8: np.uint8}


class OffPolicy(Protocol):
    """What this driver asks of a config. Counts are per run: N copies in lockstep take N env steps at a time."""

    gamma: float
    batch_size: int
    buffer_size: int
    learning_starts: int
    train_every: int
    gradient_steps: int
    n_step: int
    prioritized: bool


class Priorities(Protocol):
    """What it asks besides of a config that is ``prioritized``."""

    priority_exponent: float
    priority_beta: float
    priority_epsilon: float


def run(pack: Pack) -> None:
    """Train until the env steps are done or nobody is left. See :func:`worker.rl.drivers.train`."""
    agent, env, device = pack.agent, pack.env, pack.device
    config = cast("OffPolicy", pack.spec.algorithm)
    replay = _replay(config, env, len(pack.seeds), device)
    loop = Loop(
        pack,
        emit_every=EMIT_EVERY,
        parts={"replay": replay},
        cut=replay.ring.cut,
    )
    with closing(loop):
        obs: np.ndarray | None = loop.begin()
        while obs is not None:
            replay.ring.observe(obs)
            agent.env_step = loop.env_step
            if loop.env_step < config.learning_starts:
                action = random_action(env.spec, loop.noise, env.num_envs)
            else:
                action = agent.act(torch.from_numpy(obs).to(device), loop.noise, explore=True).action
            taken = action.cpu().numpy()
            step = env.step(taken)
            ended = step.terminated | step.truncated
            replay.ring.add(taken, step.reward, step.terminated, ended, step.next_obs)
            loop.advance(env.num_envs)
            pack.reporter.progress(loop.env_step)
            loop.episodes.add(step.reward[:, None], ended[:, None])
            if (cut := loop.look()).any():
                replay.ring.cut(cut)
            due = rounds(loop.env_step, env.num_envs, config.train_every, config.learning_starts)
            if due:
                done = loop.env_step / pack.spec.training.total_env_steps
                for batch in replay.sample(loop.noise, due * config.gradient_steps, config.batch_size, done):
                    update = agent.update(batch, loop.noise)
                    replay.update(update.priority)
                    if loop.interrupted():
                        replay.ring.cut(loop.look())
                        break
                loop.record(update.metrics)
            obs = loop.turn(step.obs)


def rounds(env_step: int, taken: int, every: int, start: int) -> int:
    """Rounds of updates due after ``env_step`` env steps, the last ``taken`` of them new: one at each multiple of
    ``every`` beyond ``start``."""
    return max(0, env_step // every - max(env_step - taken, start) // every)


def random_action(env_spec: EnvSpec, noise: Noise, num_envs: int) -> Tensor:
    """Actions drawn uniformly from a discrete space or a box, (R, N, …)."""
    if isinstance(env_spec.action_space, BoxSpace):
        low, high = env_spec.action_low.to(noise.device), env_spec.action_high.to(noise.device)
        return torch.lerp(low, high, noise.uniform("warmup", num_envs, env_spec.action_dim))
    return noise.integers("warmup", env_spec.action_dim, num_envs)


def _replay(config: OffPolicy, env: VectorEnv, replicas: int, device: torch.device) -> Replay:
    shape, stack = env.spec.observation_shape, env.spec.frame_stack
    ring = Ring(
        replicas,
        env.num_envs,
        -(-config.buffer_size // env.num_envs),
        (shape, NUMPY[env.spec.observation_dtype]),
        (env.spec.action_shape, NUMPY[env.spec.action_dtype]),
        stack,
        channel_axis(shape) if stack > 1 else 0,
    )
    if not config.prioritized:
        return Uniform(ring, config.gamma, device, config.n_step)
    priorities = cast("Priorities", config)
    return Prioritized(
        ring,
        config.gamma,
        device,
        config.n_step,
        alpha=priorities.priority_exponent,
        beta=priorities.priority_beta,
        epsilon=priorities.priority_epsilon,
    )
