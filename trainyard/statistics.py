"""Statistics over a few runs: interquartile mean and its bootstrap interval (Agarwal et al. 2021, arXiv 2108.13264)."""

import math
import random
from collections.abc import Callable, Sequence

RESAMPLES = 2000


def iqm(values: Sequence[float]) -> float:
    """Mean of the middle half; a value that a quartile cuts through counts by its share."""
    ordered, quarter = sorted(values), len(values) / 4
    whole = math.floor(quarter)
    share = 1 - (quarter - whole)
    middle = ordered[whole : len(ordered) - whole]
    total = sum(middle) if len(middle) == 1 else sum(middle) - (1 - share) * (middle[0] + middle[-1])
    return total / (len(middle) if len(middle) == 1 else len(middle) - 2 * (1 - share))


def interval(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = iqm, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile-bootstrap interval of ``statistic`` over ``values``, the same at every call."""
    generator = random.Random(0)  # noqa: S311 - a resample is no secret
    draws = sorted(statistic(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    return draws[round(tail * (RESAMPLES - 1))], draws[round((1 - tail) * (RESAMPLES - 1))]
