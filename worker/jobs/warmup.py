"""What a spare does before its job: everything slow that does not depend on it."""

from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.orm import configure_mappers

import worker.jobs.training  # noqa: F401 - with all that a job imports
from app.db.engine import Database
from app.schemas.experiment import ExperimentSpec, resolve
from worker.jobs import facts
from worker.jobs.away import DATABASE_AWAY
from worker.rl import drivers
from worker.rl.reporter import MemoryReporter

SPEC = {
    "environment": {"id": "CartPole-v1", "num_envs": 2},
    "algorithm": {"name": "ppo", "num_steps": 8, "hidden_sizes": (8,), "epochs": 1, "num_minibatches": 1},
    "training": {"total_env_steps": 16, "evaluation_episodes": 1},
}


def run(database_url: str) -> Database:
    """Load every library a job needs and train for a moment, on the CPU and with generators of its own.

    Returns:
        The database, with a connection open unless it is away.
    """
    facts.gather(pack=1, device="cpu")
    configure_mappers()
    database = Database(database_url, pool_size=1)
    with suppress(*DATABASE_AWAY), database.reading() as session:
        session.execute(text("SELECT 1"))
    spec = resolve(ExperimentSpec.model_validate(SPEC))
    drivers.train(spec, [0], MemoryReporter([0]))
    return database
