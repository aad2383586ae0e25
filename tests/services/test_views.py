"""Rows as answers."""

from datetime import UTC, datetime

import pytest

from app.services.views import experiment_status, reason, utc


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        (["queued", "queued"], "queued"),
        (["queued", "starting"], "running"),
        (["queued", "succeeded"], "running"),
        (["paused", "paused"], "running"),
        (["succeeded", "cancelling"], "running"),
        (["failed", "running"], "running"),
        (["succeeded", "succeeded"], "succeeded"),
        (["succeeded", "cancelled"], "succeeded"),
        (["cancelled", "cancelled"], "cancelled"),
        (["succeeded", "cancelled", "failed"], "failed"),
    ],
)
def test_the_state_of_an_experiment(runs: list[str], status: str) -> None:
    assert experiment_status(runs) == status


def test_times_are_utc() -> None:
    assert utc(1_769_860_800.25) == datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
    assert utc(None) is None


def test_a_reason_without_words_says_its_code() -> None:
    assert reason(None, None) is None
    assert reason("killed", None) == {"code": "killed", "message": "killed"}
