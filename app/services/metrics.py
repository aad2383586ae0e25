"""Metrics of a run: newest values, and series in bounded form."""

from typing import Any

from sqlalchemy.orm import Session

from app.db.repositories import metrics
from app.errors import NotFound
from app.schemas import responses
from app.schemas.base import closest
from app.services import runs, views


def latest(session: Session, run_id: str) -> responses.Page[responses.Metric]:
    """Every series of a run by its newest point.

    Raises:
        NotFound
    """
    runs.find(session, run_id)
    return responses.Page[responses.Metric](data=[views.metric(row) for row in metrics.latest(session, run_id)])


def series(session: Session, run_id: str, key: str, max_points: int) -> dict[str, Any]:
    """A series in at most ``max_points`` buckets, as ``responses.Series`` describes it, with numpy arrays in it.

    Raises:
        NotFound: there is no such run, or it has no such series.
    """
    runs.find(session, run_id)
    steps, values = metrics.series(session, run_id, key)
    if not len(steps):
        near = closest(key, [row.key for row in metrics.latest(session, run_id)])
        hint = f": did you mean {near}?" if near and near != key else ""
        raise NotFound(f"run {run_id} has no metric {key!r}{hint}")
    buckets = metrics.downsample(steps, values, max_points)
    return {
        "run_id": run_id,
        "key": key,
        "x": "env_steps",
        "sampled": buckets.sampled,
        "points": len(steps),
        "nonfinite": buckets.nonfinite,
        "step": buckets.step,
        "value": buckets.value,
        "min": buckets.minimum,
        "max": buckets.maximum,
    }
