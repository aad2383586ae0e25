import json
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from tests.trainyard.conftest import SPEC, processes_of
from trainyard import Client, process
from trainyard.cli import main

SECONDS = 120
Start = Callable[..., "Popen[str]"]


def gone(folder: Path) -> bool:
    """Whether nothing works in the folder any more; what was told to end may take a moment."""
    end = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < end:
        time.sleep(0.1)
    return not processes_of(folder)


class TestRemote:
    def test_run_shows_progress_and_the_exit_status_is_the_outcome(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC))
        assert main(["run", str(tmp_path / "spec.json"), "--watch", "--url", url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("exp_")
        assert all("succeeded" in line for line in lines[-2:])

    def test_an_experiment_can_be_watched_again(
        self, url: str, trained: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["watch", trained["id"], "--url", url]) == 0
        assert all("succeeded" in line for line in capsys.readouterr().out.splitlines()[-2:])

    def test_a_watch_that_gives_up_says_how_to_go_on(
        self,
        restarting: Callable[..., Client],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("trainyard.client.PATIENCE_SECONDS", 0.0)
        experiment = {
            "id": "exp_1",
            "runs": [{"id": "run_1", "seed": 0}],
            "spec": {"training": {"total_env_steps": 10}},
        }
        client = restarting((200, json.dumps(experiment).encode()), seen=[])
        assert main(["watch", "exp_1", "--url", client.url]) == 1
        err = capsys.readouterr().err
        assert "does not answer" in err
        assert "exp_1 goes on" in err
        assert f"{process.shell_command()} watch exp_1 --url {client.url}" in err

    def test_a_watch_that_is_interrupted_says_how_to_go_on_and_how_to_end_it(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "spec.json").write_text(json.dumps(SPEC | {"training": {"total_env_steps": 10**9}}))
        command = [sys.executable, "-m", "trainyard", "run", str(tmp_path / "spec.json"), "--watch", "--url", url]
        with Popen(command, stdout=PIPE, stderr=PIPE, text=True) as watching:
            assert watching.stdout is not None
            try:
                experiment = watching.stdout.readline().strip()
                watching.stdout.readline()
                watching.send_signal(signal.SIGINT)
                _, err = watching.communicate(timeout=SECONDS)
            finally:
                watching.kill()
        assert watching.returncode == 130
        assert f"{experiment} goes on" in err and "Traceback" not in err
        assert f"watch {experiment} --url {url}" in err
        assert f"cancel {experiment} --url {url}" in err
        assert main(["cancel", experiment, "--url", url]) == 0
        assert experiment in capsys.readouterr().out
        assert main(["watch", experiment, "--url", url]) == 1
        assert "cancelled on request" in capsys.readouterr().err

    def test_runs_are_listed(self, url: str, trained: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["runs", "--experiment", trained["id"], "--url", url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line.split()[0] for line in lines} == {run["id"] for run in trained["runs"]}

    def test_act_prints_an_action(self, url: str, trained: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["act", trained["runs"][0]["id"], "[0, 0.1, 0.02, -0.1]", "--url", url]) == 0
        assert capsys.readouterr().out.strip() in ("0", "1")

    def test_an_observation_that_is_not_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["act", "run_1", "zz"])
        assert "an observation is JSON, e.g. '[0, 0.1, 0, 0]'" in capsys.readouterr().err

    def test_an_observation_that_is_not_finite(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["act", "run_1", "[0, 0.1, 0.02, NaN]"]) == 1
        assert "numbers are finite" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "said"),
        [("{", "cannot read the spec"), ('{"environment": {"id": "CartPol-v1"}, "algorithm": {"name": "ppo"}}', "422")],
    )
    def test_errors_are_one_message(
        self, url: str, tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "spec.json").write_text(text)
        assert main(["run", str(tmp_path / "spec.json"), "--url", url]) == 1
        assert said in capsys.readouterr().err

    def test_a_service_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["runs", "--url", "http://127.0.0.1:1"]) == 1
        assert "does not answer" in capsys.readouterr().err


class TestShellCommand:
    @pytest.fixture
    def script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        script = tmp_path / ".venv" / "bin" / "trainyard"
        script.parent.mkdir(parents=True)
        script.touch(mode=0o755)
        monkeypatch.setattr("sys.executable", str(script.with_name("python")))
        monkeypatch.setenv("PATH", "/usr/bin")
        monkeypatch.chdir(tmp_path)
        return script

    def test_an_environment_that_is_not_active_is_named(self, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert process.shell_command() == ".venv/bin/trainyard"
        monkeypatch.chdir(script.parent.parent)
        assert process.shell_command() == "bin/trainyard"
        monkeypatch.chdir("/")
        assert process.shell_command().endswith(str(script).removeprefix("/"))

    def test_an_active_one_is_not(self, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(script.parent))
        assert process.shell_command() == "trainyard"

    def test_without_the_script_there_is_the_module(self, script: Path) -> None:
        script.unlink()
        assert process.shell_command() == ".venv/bin/python -m trainyard"


class TestUp:
    def test_it_serves_until_it_is_interrupted_and_leaves_nothing(self, command: Start, tmp_path: Path) -> None:
        child = command("up", "--port", "0", "--data-dir", str(tmp_path / "data"), PYTHONUNBUFFERED="1")
        assert child.stdout is not None
        line = child.stdout.readline()
        assert re.search(r"ready at http://127\.0\.0\.1:\d+", line)
        child.send_signal(signal.SIGINT)
        assert child.wait(SECONDS) == 0
        assert gone(tmp_path / "data")


class TestDemo:
    def test_it_trains_plays_and_stops(self, command: Start, tmp_path: Path) -> None:
        child = command("demo", "--data-dir", str(tmp_path / "data"), "--env-steps", "20000")
        out, err = child.communicate(timeout=SECONDS)
        assert child.returncode == 0, err
        assert re.search(r"Final return over 4 seeds: \d+\.\d, 95 % interval \[\d+\.\d, \d+\.\d\]", out)
        assert re.search(r"Played an episode of \d+ steps over HTTP", out)
        assert f"trainyard up --data-dir {tmp_path / 'data'}" in out
        assert gone(tmp_path / "data")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_stops_everything(self, command: Start, tmp_path: Path, number: signal.Signals) -> None:
        child = command("demo", "--data-dir", str(tmp_path / "data"), "--env-steps", "100000000")
        assert child.stdout is not None
        while "running" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(number)
        _, err = child.communicate(timeout=SECONDS)
        assert (child.returncode, err.strip()) == (130, "trainyard: interrupted")
        assert gone(tmp_path / "data")

    def test_a_service_that_cannot_start_is_explained(self, command: Start, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "trainyard.db").mkdir()
        child = command("demo", "--data-dir", str(tmp_path / "data"))
        _, err = child.communicate(timeout=SECONDS)
        assert child.returncode == 1
        assert "the service ended while starting" in err
