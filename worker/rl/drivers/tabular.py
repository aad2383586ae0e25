"""Act, and learn from every transition as it comes."""

from contextlib import closing

import numpy as np
import torch

from worker.rl.drivers.loop import Loop
from worker.rl.drivers.pack import Pack
from worker.rl.types import Transition

EMIT_EVERY = 1000
"""Env steps between two points of a metric."""


def run(pack: Pack) -> None:
    """Train until the env steps are done or nobody is left. See :func:`worker.rl.drivers.train`."""
    agent, env, device = pack.agent, pack.env, pack.device
    gamma = np.float32(pack.spec.algorithm.gamma)
    with closing(Loop(pack, emit_every=EMIT_EVERY)) as loop:
        obs: np.ndarray | None = loop.begin()
        while obs is not None:
            agent.env_step = loop.env_step
            now = torch.from_numpy(obs.copy()).to(device)  # the environment is about to write over it
            action = agent.act(now, loop.noise, explore=True).action
            step = env.step(action.cpu().numpy())
            ended = step.terminated | step.truncated
            loop.advance(env.num_envs)
            pack.reporter.progress(loop.env_step)
            loop.episodes.add(step.reward[:, None], ended[:, None])
            ended |= loop.look()[:, None]
            seen = (step.reward, gamma * ~step.terminated, step.next_obs, ended)
            reward, discount, next_obs, episode_end = (torch.from_numpy(values).to(device) for values in seen)
            transition = Transition(now, action, reward, discount, next_obs, episode_end=episode_end)
            loop.record(agent.update(transition, loop.noise).metrics)
            obs = loop.turn(step.obs)
