"""The table of transitions, exhaustively, as runs obey it."""

import itertools

import pytest

from app.db import states
from app.db.engine import Database
from app.db.repositories import runs
from app.db.repositories.runs import Reason
from tests.db import scene

STATES = sorted(states.TRANSITIONS)


class TestTable:
    def test_terminal_states_are_final(self) -> None:
        assert {state for state, targets in states.TRANSITIONS.items() if not targets} == states.TERMINAL

    def test_every_state_is_active_terminal_or_paused(self) -> None:
        assert states.ACTIVE | states.TERMINAL | {"paused"} == set(STATES)
        assert states.ACTIVE - {"queued"} == states.HELD

    def test_every_state_can_be_reached_from_queued(self) -> None:
        reached = {"queued"}
        for _ in STATES:
            reached |= {target for state in reached for target in states.TRANSITIONS[state]}
        assert reached == set(STATES)

    def test_cancelled_can_be_reached_from_every_state_that_is_not_terminal(self) -> None:
        assert states.sources("cancelled") == set(STATES) - states.TERMINAL


class TestTransition:
    def test_all_pairs(self, database: Database) -> None:
        made = scene.make(database)
        for source, target in itertools.product(STATES, STATES):
            made.force(status=source, reason_code="old", reason_message="old", finished_at=None)
            before = made.run()
            with database.writing() as session:
                changed = runs.transition(session, made.run_id, target, reason=Reason("new", "news"))
            after = made.run()
            assert changed == (target in states.TRANSITIONS[source]), (source, target)
            assert after.status == (target if changed else source)
            assert after.reason_code == ("new" if changed else "old")
            assert after.event_seq == before.event_seq + changed
            assert (after.finished_at is not None) == (changed and target in states.TERMINAL)
        events = made.events()
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].data == {"status": after.status, "reason": {"code": "new", "message": "news"}} or not changed

    @pytest.mark.parametrize("allowed", [(), ("queued",), ("starting", "running")])
    def test_allowed_from_narrows(self, database: Database, allowed: tuple[str, ...]) -> None:
        made = scene.make(database)
        made.force(status="running")
        with database.writing() as session:
            assert runs.transition(session, made.run_id, "failed", allowed_from=allowed) == ("running" in allowed)

    def test_started_at_is_that_of_the_first_start(self, database: Database) -> None:
        made = scene.make(database)
        made.release(made.begin(), "crashed")
        first = made.run().started_at
        made.begin()
        assert first is not None
        assert made.run().started_at == first

    def test_an_unknown_run_has_no_transitions(self, database: Database) -> None:
        with database.writing() as session:
            assert not runs.transition(session, "run_none", "cancelled")
