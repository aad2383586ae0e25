"""What a spare does before its job: everything slow that does not depend on it."""

import sqlalchemy

from app.schemas.experiment import ExperimentSpec, resolve
from worker.jobs import facts
from worker.jobs import training as training_of_jobs
from worker.rl import drivers, precision
from worker.rl.reporter import MemoryReporter

SPEC = {
    "environment": {"id": "CartPole-v1", "num_envs": 2},
    "algorithm": {"name": "ppo", "num_steps": 8, "hidden_sizes": (8,), "epochs": 1, "num_minibatches": 1},
    "training": {"total_env_steps": 16, "evaluation_episodes": 1},
}


def run() -> None:
    """Load every library a job needs and train for a moment, on the CPU and with generators of its own."""
    facts.versions()
    precision.error("bf16")
    assert training_of_jobs.train  # its imports are most of the warming
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    spec = resolve(ExperimentSpec.model_validate(SPEC))
    drivers.train(spec, [0], MemoryReporter([0]))
