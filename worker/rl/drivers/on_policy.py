"""Collect a rollout with the current policy, learn from it, throw it away."""

from collections.abc import Callable
from contextlib import closing
from typing import Protocol, cast

import numpy as np

from worker.rl.algorithms.agent import Agent
from worker.rl.drivers.loop import Loop
from worker.rl.drivers.pack import Pack
from worker.rl.envs import VectorEnv
from worker.rl.noise import Noise
from worker.rl.replay.rollout import RolloutStorage


class OnPolicy(Protocol):
    """What this driver asks of an agent besides acting and learning."""

    num_steps: int
    """Env steps per copy and rollout."""


def run(pack: Pack) -> None:
    """Train until the env steps are done or nobody is left. See :func:`worker.rl.drivers.train`."""
    agent, env = pack.agent, pack.env
    steps = cast("OnPolicy", agent).num_steps
    storage = RolloutStorage(
        len(pack.seeds),
        env.num_envs,
        steps,
        (env.spec.observation_shape, env.spec.observation_dtype),
        (env.spec.action_shape, env.spec.action_dtype),
        pack.device,
    )
    per_rollout = steps * env.num_envs
    loop = Loop(
        pack,
        emit_every=per_rollout,
        followers=[storage],
        cut=lambda replicas: None,  # the rollout is learned from: nothing in flight is kept
    )
    with closing(loop):
        obs: np.ndarray | None = loop.begin()
        while obs is not None:
            drawn = loop.noise.state()
            after = collect(agent, env, storage, loop.noise, obs, loop.interrupted)
            if after is None:
                loop.noise.load(drawn)  # as if the rollout had never begun
                loop.turn(obs)
                return
            obs = after
            loop.advance(per_rollout)
            loop.episodes.add(storage.reward, storage.episode_end)
            rollout = storage.rollout(obs, loop.look())
            loop.record(agent.update(rollout, loop.noise).metrics)
            obs = loop.turn(obs)


def collect(
    agent: Agent, env: VectorEnv, storage: RolloutStorage, noise: Noise, obs: np.ndarray, stopped: Callable[[], bool]
) -> np.ndarray | None:
    """Fill the storage, acting on from ``obs``; the observations to act on next, or None when ``stopped``."""
    storage.begin()
    for t in range(storage.steps):
        if stopped():
            return None
        action = agent.act(storage.observe(t, obs), noise, explore=True).action
        step = env.step(action.cpu().numpy())
        storage.add(t, action, step.reward, step.terminated, step.truncated, step.next_obs)
        obs = step.obs
    return obs
