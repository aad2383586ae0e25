"""GPUs that are configured but not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.db.repositories import runs
from app.schemas.experiment import ExperimentSpec, resolve
from app.services import experiments
from app.settings import Settings
from tests.jobs.scene import Stage, spec_of
from worker.jobs import dispatch, gpus
from worker.jobs.host import Host

FAR = "cuda:999"


@pytest.mark.parametrize("cuda", [False, True])
def test_gpus_count_where_torch_can_use_them(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: cuda)
    monkeypatch.setattr(gpus, "driver_count", lambda: 3)
    assert gpus.count() == (3 if cuda else 0)


@pytest.mark.gpu
def test_hidden_gpus_do_not_count() -> None:
    ask = [sys.executable, "-c", "from worker.jobs import gpus; print(gpus.driver_count())"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    assert int(subprocess.check_output(ask)) > 0
    assert int(subprocess.check_output(ask, env=environment)) == 0


def test_no_gpu_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "driver_count", lambda: pytest.fail("the driver is left alone"))
    gpus.check(("cpu", "cpu"))


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: True)
    monkeypatch.setattr(gpus, "driver_count", lambda: 2)
    gpus.check(("cpu", "cuda:1"))
    with pytest.raises(gpus.DeviceMissing, match="cuda:2 is not there"):
        gpus.check(("cuda:0", "cuda:2"))


def test_a_machine_without_a_driver_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DRIVER", "libnowhere.so.1")
    assert gpus.driver_count() == 0


def test_a_worker_does_not_start_with_a_device_that_is_not_there(stage: Stage) -> None:
    worker = stage.start_worker(devices=f"cpu,{FAR}")
    assert worker.wait(60) == 1
    assert f"trainyard worker: TRAINYARD_DEVICES: {FAR}" in stage.logs()


def test_a_job_whose_device_is_lost_fails_once(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=sqlite_url, devices=(FAR,), spares=0)
    host = Host(settings)
    spec = resolve(ExperimentSpec.model_validate(spec_of((0,), "default", resources={"device": "auto"})))
    with host.database.writing() as session:
        [run] = experiments.create(session, spec).experiment.runs
    dispatch.work(host)
    with host.database.reading() as session:
        ended = runs.get(session, run.id)
        attempts = runs.attempts(session, run.id)
    host.database.dispose()
    assert ended is not None and (ended.status, ended.reason_code) == ("failed", "device_unavailable")
    assert ended.reason_message is not None and FAR in ended.reason_message
    assert len(attempts) == 1
