"""Metric series, stored as chunks of consecutive points.

A flush writes one small chunk per series. Once the small chunks of a series add up to ``CHUNK`` points, the flush
that completes them writes one chunk in their place: every point is merged once, and no blob grows in place. Non-finite
values are stored as they are and counted. Writers hold the job's row (see ``training``), so a series has
one writer at a time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Double, bindparam, case, delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.db.models import MetricChunk, MetricLatest

CHUNK = 4096
"""Points from which a chunk is left alone."""

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Points: TypeAlias = tuple[Ints, Floats, Floats]
"""Steps (strictly increasing), values and times (epoch seconds), of equal length."""

_chunks = MetricChunk.metadata.tables["metric_chunks"]
_latest = MetricLatest.metadata.tables["metric_latest"]


class SeriesMoved(Exception):
    """Somebody else has extended a series since it was read; read it again."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A series for reading; where it is ``sampled``, an entry stands for several points.

    Values are means; NaN stands for a bucket in which no value is finite. ``nonfinite`` counts the points that are not.
    """

    step: Ints
    value: Floats
    minimum: Floats
    maximum: Floats
    sampled: bool
    nonfinite: int


def encode(points: Points) -> dict[str, Any]:
    """A chunk's columns for some points."""
    steps, values, times = points
    return {
        "first_step": int(steps[0]),
        "last_step": int(steps[-1]),
        "points": len(steps),
        "steps": steps.astype("<i8", copy=False).tobytes(),
        "values": values.astype("<f8", copy=False).tobytes(),
        "times": times.astype("<f8", copy=False).tobytes(),
    }


def decode(steps: bytes, values: bytes, times: bytes) -> Points:
    """The points of a chunk."""
    return np.frombuffer(steps, "<i8"), np.frombuffer(values, "<f8"), np.frombuffer(times, "<f8")


def append(session: Session, points: Mapping[str, Mapping[str, Points]]) -> int:
    """Append points: run id -> key -> points.

    Points at or before a series' last step are refused, so a flush may be repeated when its commit is in doubt.

    Returns:
        The number of points refused.

    Raises:
        ValueError: a series' steps do not strictly increase, or its arrays differ in length.
        SeriesMoved: two writers wrote one series at once.
    """
    query = select(_latest).where(_latest.c.run_id.in_(points))
    latest = {(row.run_id, row.key): row for row in session.execute(query)}
    refused = 0
    chunks: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for run_id, series in points.items():
        for key, given in series.items():
            last = latest.get((run_id, key))
            fresh = _after(_checked(key, given), last.last_step) if last else _checked(key, given)
            refused += len(given[0]) - len(fresh[0])
            if not len(fresh[0]):
                continue
            summary = _summary(fresh)
            tail = summary["tail"] + (last.tail if last else 0)
            if last and last.tail and tail >= CHUNK:
                fresh = _take_tail(session, run_id, key, fresh)
            summary["tail"] = tail if tail < CHUNK else 0
            chunks.append({"run_id": run_id, "key": key, **encode(fresh)})
            row = {"b_run_id": run_id, "b_key": key, **{f"b_{name}": value for name, value in summary.items()}}
            (moved if last else new).append(row)
    _write(session, chunks, new, moved)
    return refused


def latest(session: Session, run_id: str) -> Sequence[MetricLatest]:
    """The newest point of each series of a run, by key."""
    return session.scalars(select(MetricLatest).where(MetricLatest.run_id == run_id).order_by(MetricLatest.key)).all()


def latest_of(session: Session, run_ids: Sequence[str]) -> dict[str, list[MetricLatest]]:
    """run id -> the newest point of each of its series, by key."""
    found: dict[str, list[MetricLatest]] = {run_id: [] for run_id in run_ids}
    query = select(MetricLatest).where(MetricLatest.run_id.in_(run_ids)).order_by(MetricLatest.key)
    for row in session.scalars(query):
        found[row.run_id].append(row)
    return found


def series(session: Session, run_id: str, key: str) -> tuple[Ints, Floats]:
    """All steps and values of a series, read in one statement; empty when there is none."""
    query = (
        select(_chunks.c.steps, _chunks.c["values"])
        .where(_chunks.c.run_id == run_id, _chunks.c.key == key)
        .order_by(_chunks.c.first_step)
    )
    rows = session.execute(query, execution_options={"binary_results": True}).all()
    if not rows:
        return np.empty(0, np.int64), np.empty(0)
    steps = np.concatenate([np.frombuffer(steps, "<i8") for steps, _ in rows])
    return steps, np.concatenate([np.frombuffer(values, "<f8") for _, values in rows])


def downsample(steps: Ints, values: Floats, max_points: int) -> Buckets:
    """At most ``max_points`` (2 or more) buckets of equally many points; the first and the last point stand alone.

    A bucket's step is that of the point in its middle.
    """
    finite = np.isfinite(values)
    nonfinite = len(values) - int(np.count_nonzero(finite))
    if len(steps) <= max_points:
        shown = np.where(finite, values, np.nan)
        return Buckets(steps, shown, shown, shown, sampled=False, nonfinite=nonfinite)
    inner, buckets = len(steps) - 2, max_points - 2
    starts = np.concatenate(([0], 1 + np.arange(buckets) * inner // max(buckets, 1), [len(steps) - 1]))
    ends = np.concatenate((starts[1:], [len(steps)]))
    middle = (starts + ends - 1) // 2
    if not nonfinite:
        mean = np.add.reduceat(values, starts) / (ends - starts)
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    else:
        count = np.add.reduceat(finite.astype(np.int64), starts)
        total = np.add.reduceat(np.where(finite, values, 0.0), starts)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        low = np.where(count > 0, np.minimum.reduceat(np.where(finite, values, np.inf), starts), np.nan)
        high = np.where(count > 0, np.maximum.reduceat(np.where(finite, values, -np.inf), starts), np.nan)
    return Buckets(steps[middle], mean, low, high, sampled=True, nonfinite=nonfinite)


def cut(session: Session, run_id: str, env_steps: int) -> None:
    """Remove every point of a run beyond ``env_steps`` and recompute the latest values."""
    own = _chunks.c.run_id == run_id
    beyond = session.execute(select(_chunks).where(own, _chunks.c.last_step > env_steps)).all()
    lost: Counter[str] = Counter()
    kept = []
    for row in beyond:
        steps, values, times = decode(row.steps, row.values, row.times)
        left = int(np.searchsorted(steps, env_steps, side="right"))
        lost[row.key] += int(np.count_nonzero(~np.isfinite(values[left:])))
        if left:
            kept.append({"run_id": run_id, "key": row.key, **encode((steps[:left], values[:left], times[:left]))})
    session.execute(delete(_chunks).where(own, _chunks.c.last_step > env_steps))
    if kept:
        session.execute(insert(_chunks), kept)
    for key, nonfinite in lost.items():
        _recompute(session, run_id, key, nonfinite)


def _checked(key: str, points: Points) -> Points:
    steps, values, times = points
    if not len(steps) == len(values) == len(times):
        raise ValueError(f"{key}: {len(steps)} steps, {len(values)} values, {len(times)} times")
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        raise ValueError(f"{key}: steps must strictly increase")
    return points


def _after(points: Points, step: int) -> Points:
    steps, values, times = points
    start = int(np.searchsorted(steps, step, side="right"))
    return (steps[start:], values[start:], times[start:]) if start else points


def _summary(points: Points) -> dict[str, Any]:
    """The columns of a latest-value row for new points."""
    steps, values, times = points
    return {
        "first_step": int(steps[0]),
        "last_step": int(steps[-1]),
        "value": float(values[-1]) if np.isfinite(values[-1]) else None,
        "time": float(times[-1]),
        "points": len(steps),
        "tail": len(steps),
        "nonfinite": len(values) - int(np.count_nonzero(np.isfinite(values))),
    }


def _take_tail(session: Session, run_id: str, key: str, fresh: Points) -> Points:
    """Remove the small chunks of a series and return their points with the fresh ones behind."""
    tail = (_chunks.c.run_id == run_id, _chunks.c.key == key, _chunks.c.points < CHUNK)
    rows = session.execute(select(_chunks).where(*tail).order_by(_chunks.c.first_step)).all()
    parts = [decode(row.steps, row.values, row.times) for row in rows] + [fresh]
    session.execute(delete(_chunks).where(*tail))
    steps, values, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    return steps, values, times


def _write(
    session: Session, chunks: list[dict[str, Any]], new: list[dict[str, Any]], moved: list[dict[str, Any]]
) -> None:
    if chunks:
        session.execute(insert(_chunks), chunks)
    if new:
        session.execute(insert(_latest).values(_parameters("run_id", "key", "points", "nonfinite")), new)
    if moved:
        added = {name: _latest.c[name] + bindparam(f"b_{name}", type_=BigInteger) for name in ("points", "nonfinite")}
        guarded = update(_latest).where(
            _latest.c.run_id == bindparam("b_run_id"),
            _latest.c.key == bindparam("b_key"),
            _latest.c.last_step < bindparam("b_first_step", type_=BigInteger),
        )
        result = session.connection().execute(guarded.values(_parameters() | added), moved)
        if result.rowcount != len(moved):
            raise SeriesMoved(f"{len(moved) - result.rowcount} series were extended by another writer")


def _parameters(*more: str) -> dict[str, Any]:
    types = {"value": Double, "time": Double}
    names = ("last_step", "value", "time", "tail", *more)
    return {name: bindparam(f"b_{name}", type_=types.get(name)) for name in names}


def _recompute(session: Session, run_id: str, key: str, lost_nonfinite: int) -> None:
    own = (_chunks.c.run_id == run_id, _chunks.c.key == key)
    row = (_latest.c.run_id == run_id, _latest.c.key == key)
    last = session.execute(select(_chunks).where(*own).order_by(_chunks.c.first_step.desc()).limit(1)).first()
    if last is None:
        session.execute(delete(_latest).where(*row))
        return
    small = case((_chunks.c.points < CHUNK, _chunks.c.points), else_=0)
    points, tail = session.execute(select(func.sum(_chunks.c.points), func.sum(small)).where(*own)).one()
    summary = _summary(decode(last.steps, last.values, last.times))
    values = {name: summary[name] for name in ("last_step", "value", "time")}
    session.execute(
        update(_latest)
        .where(*row)
        .values(**values, points=int(points), tail=int(tail), nonfinite=_latest.c.nonfinite - lost_nonfinite)
    )
