import io
from collections.abc import Callable

import pytest

from trainyard import Client
from trainyard.progress import Line, failures, watch
from trainyard.sse import Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestLine:
    def test_it_follows_the_stream(self) -> None:
        line = Line(seed=3, total=1000)
        progress = {"env_steps": 500, "total_env_steps": 1000}
        latest = {"train/episode_return": {"step": 480, "value": 21.5}}
        line.take(Event("1", "status", {"status": "running"}))
        line.take(Event(None, "metrics", {"progress": progress, "latest": latest}))
        line.take(Event("2", "evaluation", {"env_steps": 500, "return_mean": 87.25}))
        words = " ".join(str(line).split())
        assert words == "seed 3 running [############ ] 500 steps return 21.5 evaluated 87.2"

    def test_it_ends_as_the_run_did(self) -> None:
        line = Line(seed=0, total=100_000, status="running", env_steps=96_512, episode_return=400.0)
        latest = {"train/episode_return": {"step": 100_000, "value": 500.0}}
        line.end({"status": "succeeded", "progress": {"env_steps": 100_000}, "latest": latest})
        assert (line.status, line.env_steps, line.episode_return) == ("succeeded", 100_000, 500.0)

    def test_a_value_that_is_no_number_changes_nothing(self) -> None:
        line = Line(seed=0, total=10, episode_return=1.0, evaluation=2.0)
        line.take(Event(None, "metrics", {"progress": {"env_steps": 1}, "latest": {}}))
        line.take(Event("1", "evaluation", {"env_steps": 1, "return_mean": None}))
        assert (line.episode_return, line.evaluation) == (1.0, 2.0)


class TestWatch:
    def test_ended_runs_are_shown_as_they_ended(self, client: Client, trained: dict) -> None:
        out = io.StringIO()
        watch(client, trained["runs"], 8_192, out)
        last = out.getvalue().splitlines()[-2:]
        assert [line.split()[:3] for line in last] == [["seed", "0", "succeeded"], ["seed", "1", "succeeded"]]
        assert all("8,192 steps" in line for line in last)
        assert "\x1b" not in out.getvalue()

    def test_a_terminal_is_redrawn(self, client: Client, trained: dict) -> None:
        out = Terminal()
        watch(client, trained["runs"], 8_192, out)
        assert out.getvalue().count("\x1b[2K") % 2 == 0
        assert out.getvalue().rstrip().splitlines()[-1].startswith("\x1b[2Kseed 1   succeeded")

    def test_the_last_steps_are_those_of_the_ended_run(self, restarting: Callable[..., Client]) -> None:
        metrics = b'event: metrics\ndata: {"progress": {"env_steps": 6}, "latest": {}}\n\n'
        metrics += b'event: status\ndata: {"status": "succeeded"}\n\n'
        run = b'{"status": "succeeded", "progress": {"env_steps": 10}, "latest": {}}'
        client = restarting((200, metrics + b"event: done\ndata: {}\n\n"), (200, run), seen=[])
        out = io.StringIO()
        watch(client, [{"id": "run_1", "seed": 0}], 10, out)
        assert [line.split()[2:5] for line in out.getvalue().splitlines() if "succeeded" in line] == [
            ["succeeded", "[########################]", "10"]
        ]

    def test_whatever_ends_a_stream_ends_the_watch(self, impostor: Callable[..., Client]) -> None:
        client = impostor(b"event: status\ndata: {broken\n\n", "text/event-stream")
        with pytest.raises(ValueError, match="Expecting property name"):
            watch(client, [{"id": "run_1", "seed": 0}], 10, io.StringIO())


def test_failures_say_why() -> None:
    runs = [
        {"seed": 0, "status": "succeeded", "reason": None},
        {"seed": 1, "status": "failed", "reason": {"code": "diverged", "message": "a loss is not finite"}},
        {"seed": 2, "status": "cancelled", "reason": None},
    ]
    assert failures(runs) == ["seed 1 failed: a loss is not finite", "seed 2 cancelled: no reason given"]
