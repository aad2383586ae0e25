"""Numbers that change with the share of a run that is over."""


def linear(start: float, end: float, share: float) -> float:
    """From ``start`` at share 0 to ``end`` at share 1 by equal differences; beyond, it stays there."""
    return start + min(1.0, share) * (end - start)


def exponential(start: float, end: float, share: float) -> float:
    """The same by equal ratios, neither from nor to zero."""
    return float(start * (end / start) ** min(1.0, share))
