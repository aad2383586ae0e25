"""What a spare does before its job: everything slow that does not depend on it."""

import sqlalchemy.orm

import worker.jobs.training  # noqa: F401 - with all that a job imports
from app.schemas.experiment import ExperimentSpec, resolve
from worker.jobs import facts
from worker.rl import drivers
from worker.rl.reporter import MemoryReporter

SPEC = {
    "environment": {"id": "CartPole-v1", "num_envs": 2},
    "algorithm": {"name": "ppo", "num_steps": 8, "hidden_sizes": (8,), "epochs": 1, "num_minibatches": 1},
    "training": {"total_env_steps": 16, "evaluation_episodes": 1},
}


def run(driver: str) -> None:
    """Load every library a job needs and train for a moment, on the CPU and with generators of its own.

    Args:
        driver: of the database, as SQLAlchemy's URLs name it.
    """
    facts.gather(pack=1, device="cpu")
    sqlalchemy.create_engine(f"{driver}://").dispose()
    sqlalchemy.orm.configure_mappers()
    spec = resolve(ExperimentSpec.model_validate(SPEC))
    drivers.train(spec, [0], MemoryReporter([0]))
