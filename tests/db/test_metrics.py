"""Metric chunks: nothing lost, nothing twice, whatever the order of flushes, publishes and crashes."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from app.db.engine import Database
from app.db.models import MetricChunk, MetricLatest
from app.db.repositories import jobs, metrics
from app.db.repositories.metrics import Points
from tests.db import scene

CHUNK = 8


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that are merged into ones of 8 points, and jobs that may crash for ever."""
    monkeypatch.setattr(metrics, "CHUNK", CHUNK)
    monkeypatch.setattr(jobs, "MAX_FAILURES", 10**6)
    monkeypatch.setattr(jobs, "MAX_TOTAL_FAILURES", 10**6)


def chunk_sizes(made: scene.Scene, key: str = "k") -> list[int]:
    query = select(MetricChunk.points).where(MetricChunk.run_id == made.run_id, MetricChunk.key == key)
    with made.database.reading() as session:
        return list(session.scalars(query.order_by(MetricChunk.first_step)))


def latest(made: scene.Scene, key: str = "k") -> MetricLatest:
    with made.database.reading() as session:
        (row,) = [row for row in metrics.latest(session, made.run_id) if row.key == key]
    return row


class TestChunks:
    def test_round_trip_keeps_every_bit(self) -> None:
        steps = np.array([-(2**62), 0, 2**62], dtype=np.int64)
        values = np.array([math.pi, math.nan, -math.inf])
        times = np.array([0.0, 1.5, 1e300])
        row = metrics.encode((steps, values, times))
        assert (row["first_step"], row["last_step"], row["points"]) == (-(2**62), 2**62, 3)
        back = metrics.decode(row["steps"], row["values"], row["times"])
        for ours, theirs in zip((steps, values, times), back, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_are_little_endian_whatever_the_input(self) -> None:
        steps = np.array([1, 2], dtype=">i8")
        row = metrics.encode((steps, steps.astype(">f8"), steps.astype(">f8")))
        assert row["steps"] == b"\1" + bytes(7) + b"\2" + bytes(7)
        assert row["values"] == np.array([1.0, 2.0], dtype="<f8").tobytes()


class TestAppend:
    def test_merges_each_point_once(self, database: Database, small_chunks: None) -> None:
        made = scene.make(database)
        attempt = made.begin()
        sizes = []
        for first in range(1, 31, 3):
            made.flush(attempt, {"k": scene.points(first, first + 2)})
            sizes.append(chunk_sizes(made))
        assert sizes[:4] == [[3], [3, 3], [9], [9, 3]]
        assert sizes[-1] == [9, 9, 9, 3]
        assert made.series("k")[0] == list(range(1, 31))
        assert (latest(made).points, latest(made).tail, latest(made).last_step) == (30, 3, 30)

    def test_leaves_a_large_flush_in_one_piece(self, database: Database, small_chunks: None) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 20)})
        made.flush(attempt, {"k": scene.points(21, 25)})
        made.flush(attempt, {"k": scene.points(26, 45)})
        assert chunk_sizes(made) == [20, 25]

    def test_a_repeated_flush_is_refused(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        assert made.flush(attempt, {"k": scene.points(1, 5)}) == 0
        assert made.flush(attempt, {"k": scene.points(1, 5, value=99.0), "l": scene.points(1, 1)}) == 5
        assert made.flush(attempt, {"k": scene.points(3, 7)}) == 3
        assert made.series("k") == ([1, 2, 3, 4, 5, 6, 7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])

    def test_the_guard_refuses_a_second_writer(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 5)})
        monkeypatch.setattr(metrics, "_after", lambda points, step: points)  # as if read before the other one wrote
        with pytest.raises(metrics.SeriesMoved):
            made.flush(attempt, {"k": scene.points(5, 6)})
        assert made.series("k")[0] == [1, 2, 3, 4, 5]

    def test_nothing_is_written_of_a_bad_flush(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        steps, values, times = scene.points(1, 3)
        for bad in ((steps[::-1], values, times), (steps[[0, 0, 1]], values, times), (steps, values[:2], times)):
            with pytest.raises(ValueError, match="k: "):
                made.flush(attempt, {"a": scene.points(1, 3), "k": bad})
        assert made.series("a") == ([], [])

    def test_an_empty_series_writes_nothing(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 0)})
        with database.reading() as session:
            assert metrics.latest(session, made.run_id) == []

    def test_values_that_are_not_finite_are_kept_and_counted(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        steps, values, times = scene.points(1, 4)
        values[1:] = (math.nan, math.inf, -math.inf)
        made.flush(attempt, {"k": (steps, values, times)})
        assert (latest(made).value, latest(made).nonfinite) == (None, 3)
        np.testing.assert_array_equal(made.series("k")[1], values)
        made.flush(attempt, {"k": scene.points(5, 6)})
        assert (latest(made).value, latest(made).nonfinite, latest(made).points) == (6.0, 3, 6)

    def test_runs_of_a_pack_in_one_flush(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        for run_id in made.run_ids:
            made.flush(attempt, {"k": scene.points(1, 3)}, run_id)
        with database.reading() as session:
            found = metrics.latest_of(session, [*made.run_ids, "run_none"])
        assert {run_id: [row.key for row in rows] for run_id, rows in found.items()} == {
            made.run_ids[0]: ["k"],
            made.run_ids[1]: ["k"],
            "run_none": [],
        }


class TestCut:
    def test_straddling_chunk(self, database: Database, small_chunks: None) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 10)})
        made.flush(attempt, {"k": scene.points(11, 20)})
        made.flush(attempt, {"k": scene.points(21, 23)})
        with database.writing() as session:
            metrics.cut(session, made.run_id, 14)
        assert made.series("k")[0] == list(range(1, 15))
        row = latest(made)
        assert (row.last_step, row.value, row.time, row.points, row.tail) == (14, 14.0, 1e9 + 14, 14, 4)
        made.flush(attempt, {"k": scene.points(15, 18)})
        assert chunk_sizes(made) == [10, 8]

    def test_between_chunks_and_before_all(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 10)})
        made.flush(attempt, {"k": scene.points(11, 20)})
        for step, left in ((20, 20), (10, 10), (0, 0)):
            with database.writing() as session:
                metrics.cut(session, made.run_id, step)
            assert len(made.series("k")[0]) == left
        with database.reading() as session:
            assert metrics.latest(session, made.run_id) == []

    def test_leaves_other_runs_alone(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        for run_id in made.run_ids:
            made.flush(attempt, {"k": scene.points(1, 3)}, run_id)
        with database.writing() as session:
            metrics.cut(session, made.run_ids[0], 0)
        assert made.series("k", made.run_ids[1])[0] == [1, 2, 3]


@dataclass
class Model:
    """What the database should hold: plain lists."""

    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    step: int = 0
    """The last step of any point."""
    published: int = 0

    def cut(self) -> None:
        """A crash and the next attempt's begin."""
        cut = {key: [point for point in points if point[0] <= self.published] for key, points in self.series.items()}
        self.series = {key: points for key, points in cut.items() if points}
        self.step = self.published


VALUES = st.floats(allow_nan=True, allow_infinity=True, width=32)
FLUSH = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.lists(VALUES, min_size=1, max_size=12), min_size=1)
ACTIONS = st.one_of(
    FLUSH.map(lambda series: ("flush", series)),
    FLUSH.map(lambda series: ("flush and publish", series)),
    st.just(("repeat", {})),
    st.just(("publish", {})),
    st.just(("crash", {})),
)


class TestHistory:
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(actions=st.lists(ACTIONS, max_size=25))
    def test_equals_plain_lists(
        self, database: Database, small_chunks: None, actions: list[tuple[str, dict[str, list[float]]]]
    ) -> None:
        made, model = scene.make(database), Model()
        attempt, last_flush = made.begin(), {}
        for action, given_series in actions:
            if action.startswith("flush"):
                last_flush = self._fresh(model, given_series)
                made.flush(attempt, last_flush)
            if action == "repeat":
                made.flush(attempt, last_flush)
            if action.endswith("publish"):
                made.publish(attempt, model.step)
                model.published = model.step
            if action == "crash":
                made.release(attempt, "crashed")
                attempt, last_flush = made.begin(model.published), {}
                model.cut()
            self._compare(made, model)
        with database.writing() as session:
            jobs.release(session, job_id=made.job_id, attempt=attempt, outcome="failed", retryable=False)

    def _fresh(self, model: Model, series: dict[str, list[float]]) -> dict[str, Points]:
        """Points that go on from where the model is; writes them into the model."""
        start, flush = model.step, {}
        for key, values in series.items():
            steps = start + 1 + np.arange(len(values), dtype=np.int64) * 2
            flush[key] = (steps, np.array(values, dtype=np.float64), steps.astype(np.float64))
            model.series.setdefault(key, []).extend(zip(steps.tolist(), values, strict=True))
            model.step = max(model.step, int(steps[-1]))
        return flush

    def _compare(self, made: scene.Scene, model: Model) -> None:
        with made.database.reading() as session:
            rows = metrics.latest(session, made.run_id)
        assert {row.key for row in rows} == model.series.keys()
        for row in rows:
            expected = model.series[row.key]
            steps, values = made.series(row.key)
            assert steps == [step for step, _ in expected]
            np.testing.assert_array_equal(values, [value for _, value in expected])
            last = expected[-1][1]
            assert (row.last_step, row.points) == (expected[-1][0], len(expected))
            assert row.value == (last if math.isfinite(last) else None)
            assert row.nonfinite == sum(not math.isfinite(value) for _, value in expected)
            sizes = chunk_sizes(made, row.key)
            assert sum(sizes) == len(expected)
            assert row.tail == sum(size for size in sizes if size < CHUNK) < CHUNK


class TestDownsample:
    @given(
        values=st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=60),
        max_points=st.integers(2, 70),
    )
    @settings(deadline=None)
    def test_equals_a_slow_reference(self, values: list[float], max_points: int) -> None:
        steps = np.arange(len(values), dtype=np.int64) * 3
        got = metrics.downsample(steps, np.array(values, dtype=np.float64), max_points)
        assert got.nonfinite == sum(not math.isfinite(value) for value in values)
        assert got.sampled == (len(values) > max_points)
        assert len(got.step) == min(len(values), max_points)
        for number, bucket in enumerate(_buckets(len(values), max_points)):
            finite = [values[i] for i in bucket if math.isfinite(values[i])]
            expected = [sum(finite) / len(finite), min(finite), max(finite)] if finite else [math.nan] * 3
            shown = [got.value[number], got.minimum[number], got.maximum[number]]
            np.testing.assert_allclose(shown, expected, rtol=1e-9, atol=1e-6)
            assert got.step[number] == steps[bucket[(len(bucket) - 1) // 2]]

    def test_first_and_last_points_stand_alone(self) -> None:
        steps, values = np.arange(1000, dtype=np.int64), np.arange(1000.0)
        got = metrics.downsample(steps, values, 10)
        assert (got.step[0], got.value[0], got.step[-1], got.value[-1]) == (0, 0.0, 999, 999.0)
        assert (np.diff(got.step) > 0).all()


def _buckets(points: int, max_points: int) -> list[list[int]]:
    """The first point, the last point, and the others spread over what is left, as evenly as whole numbers allow."""
    if points <= max_points:
        return [[i] for i in range(points)]
    inner, buckets = points - 2, max_points - 2
    if buckets == 0:
        return [list(range(points - 1)), [points - 1]]
    edges = [1 + inner * number // buckets for number in range(buckets + 1)]
    return [[0], *(list(range(start, end)) for start, end in pairwise(edges)), [points - 1]]
