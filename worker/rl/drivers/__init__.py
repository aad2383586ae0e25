"""Drivers execute agents: they alone read values back, report, save, evaluate and obey users."""

from collections.abc import Sequence
from contextlib import closing
from importlib import import_module

import torch

from app.schemas.environments import kind
from app.schemas.experiment import ExperimentSpec
from worker.rl import envs
from worker.rl.drivers.pack import Pack
from worker.rl.errors import UnsupportedSpace
from worker.rl.reporter import Reporter, State


def train(
    spec: ExperimentSpec,
    seeds: Sequence[int],
    reporter: Reporter,
    *,
    device: torch.device | str = "cpu",
    resume: State | None = None,
    replicas: Sequence[int] | None = None,
) -> None:
    """Train one run per seed, side by side, until each is finished, stopped or preempted.

    Args:
        spec: resolved (:func:`app.schemas.experiment.resolve`).
        seeds: one per run.
        reporter: hears of everything that happens and says what users want.
        device: where tensors live.
        resume: state to go on from.
        replicas: which slices of ``resume`` belong to ``seeds``; None = all.

    Raises:
        TrainingError: when the environment fails or doesn't fit.
    """
    config, device = spec.algorithm, torch.device(device)
    num_envs = spec.environment.num_envs or config.default_num_envs
    with closing(envs.make(spec.environment, seeds, num_envs)) as env:
        acted, observed = kind(env.spec.action_space), kind(env.spec.observation_space)
        if acted not in config.action_spaces or observed not in config.observation_spaces:
            raise UnsupportedSpace(
                f"{config.name} does not fit {spec.environment.id} as configured: "
                f"{observed} observations, {acted} actions"
            )
        build = import_module(f"worker.rl.algorithms.{config.module}").build
        agent = build(config, env.spec, list(seeds), device, spec.training.total_env_steps, num_envs)
        if resume is not None and replicas is not None:
            resume = resume.select(replicas)
        run = import_module(f"worker.rl.drivers.{agent.driver}").run
        run(Pack(spec, seeds, agent, env, reporter, device, resume))
