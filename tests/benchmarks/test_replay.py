"""What the replay costs is measured on the real one."""

from functools import partial

import pytest

from benchmarks import replay
from worker.rl.replay.prioritized import Prioritized
from worker.rl.replay.uniform import Uniform


@pytest.mark.parametrize("kind", [Uniform, partial(Prioritized, alpha=0.6, beta=0.4, epsilon=1e-6)])
def test_the_parts_of_an_update_are_timed(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "HELD", 256)
    monkeypatch.setattr(replay, "UPDATES", 3)
    assert min(replay.parts(kind, 64, [0, 1])) > 0


def test_a_replay_of_frames_is_filled_and_drawn_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replay, "FRAMES", 200)
    monkeypatch.setattr(replay, "EPISODE", 30)
    replay.atari()
    assert "GB;" in capsys.readouterr().out
