"""``python -m worker.jobs.trainer``: warms up, waits for one job on standard input, trains it, says how it ended.

This process alone loads torch. It writes metrics, checkpoints and results to the database itself, fenced by the job's
attempt, and ends with its supervisor.
"""

import logging
import os
import signal
import sys
import traceback

from app.db.engine import Database
from worker.jobs.away import NO_SPACE
from worker.jobs.control import Control, end_group
from worker.jobs.protocol import DONE, PREEMPTED, READY, STALE, JobMessage, Verdict


def main() -> None:
    """One job, one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = Control()
    signal.signal(signal.SIGTERM, control.terminate)
    control.start()  # before torch: a spare whose worker dies while it imports must end, too
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    from worker.jobs import warmup

    database = warmup.run(control.database_url())
    os.write(1, READY + b"\n")
    verdict = _train(control.job(), control, database)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, verdict.line())
    end_group()


def _train(job: JobMessage, control: Control, database: Database) -> Verdict:
    import torch

    from app.db.repositories.training import StaleAttempt
    from worker.jobs.training import train
    from worker.rl.errors import TrainingError

    try:
        preempted = train(job, control, database)
    except StaleAttempt:
        return STALE
    except TrainingError as error:
        return Verdict(error.code, error.message, error.retryable)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return Verdict("out_of_memory", f"out of memory: {error}; fewer or smaller networks, copies or buffers", False)
    except Exception as error:  # noqa: BLE001 - whatever it was, the verdict says so
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return Verdict("disk_full", f"there is no room in {job.artifacts_dir} for what training stores: {error}")
        return Verdict("crashed", f"{type(error).__name__}: {error}")
    return PREEMPTED if preempted else DONE


if __name__ == "__main__":
    main()
