import pytest

from worker.rl.functional import schedules


@pytest.mark.parametrize(
    ("share", "linear", "exponential"), [(0.0, 1.0, 1.0), (0.5, 0.505, 0.1), (1.0, 0.01, 0.01), (3.0, 0.01, 0.01)]
)
def test_go_from_start_to_end_and_stay_there(share: float, linear: float, exponential: float) -> None:
    assert schedules.linear(1.0, 0.01, share) == pytest.approx(linear)
    assert schedules.exponential(1.0, 0.01, share) == pytest.approx(exponential)
