import random
from statistics import fmean

import pytest

from trainyard.statistics import interval, iqm


def slow_iqm(values: list[float]) -> float:
    """Every value four times, sorted, a quarter off each end."""
    repeated = sorted(value for value in values for _ in range(4))
    return fmean(repeated[len(values) : 3 * len(values)])


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_the_mean_of_the_middle_half(count: int) -> None:
    generator = random.Random(count)
    values = [generator.uniform(-5, 5) for _ in range(count)]
    assert iqm(values) == pytest.approx(slow_iqm(values))


def test_iqm_does_not_see_one_outlier_in_five() -> None:
    assert iqm([1.0, 1.0, 1.0, 1.0, 1e9]) < 2.5e8
    assert iqm([1.0] * 7 + [1e9]) == 1.0


def test_the_interval_holds_the_statistic_and_shrinks_with_the_spread() -> None:
    low, high = interval([480.0, 500.0, 490.0, 470.0])
    assert 470 <= low <= iqm([480.0, 500.0, 490.0, 470.0]) <= high <= 500
    assert interval([7.0] * 5) == (7.0, 7.0)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    generator = random.Random(1)
    hits = 0
    for _ in range(100):
        low, high = interval([generator.gauss(0, 1) for _ in range(30)], fmean)
        hits += low <= 0 <= high
    assert hits >= 85
