"""A trainer's job, once torch is there."""

import torch

from app.db.engine import Database
from app.schemas.experiment import ExperimentSpec
from worker.jobs import states
from worker.jobs.control import Control
from worker.jobs.protocol import JobMessage
from worker.jobs.reporter import DatabaseReporter
from worker.rl import drivers, memory
from worker.rl.errors import DeviceUnavailable


def train(job: JobMessage, control: Control, database: Database) -> bool:
    """Train a job to its end. Returns whether it was preempted.

    Raises:
        StaleAttempt: another attempt holds the job.
        TrainingError: for reasons a user can understand.
    """
    torch.set_num_threads(job.threads)
    memory.keep_freed()
    if job.device != "cpu":
        _use(job.device)
    spec = ExperimentSpec.model_validate(job.spec)
    loaded = states.load(job)
    with DatabaseReporter(job, spec, database, control, loaded) as reporter:
        drivers.train(
            spec,
            [seed for _, seed in job.runs],
            reporter,
            device=job.device,
            resume=loaded.state if loaded else None,
            replicas=loaded.replicas if loaded else None,
        )
    return reporter.was_preempted


def _use(device: str) -> None:
    """Make a GPU the current one.

    Raises:
        DeviceUnavailable: torch does not see it.
    """
    if not torch.backends.cuda.is_built():
        raise DeviceUnavailable(f"{device} cannot be used: the worker's torch was built without CUDA")
    shown = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.device(device).index >= shown:
        raise DeviceUnavailable(f"{device} is not there: GPUs that the worker's torch sees: {shown}")
    torch.cuda.set_device(device)
