"""What the store keeps, for how long, and that it works once for many."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import SQLAlchemyError

from app.errors import AppError, Conflict, Damaged, NotFound, Unavailable
from app.serving import store as module
from app.serving.policy import Policy, load
from app.serving.store import PolicyStore
from tests.serving.bundles import Service, linear_graph, manifest

BUNDLE = manifest()
GRAPH = linear_graph(BUNDLE, logits=np.eye(4)[:, :2])
Ask = Callable[..., Policy]


@pytest.fixture
def store(service: Service) -> Iterator[PolicyStore]:
    store = PolicyStore(service.database, service.root, capacity=2**30)
    yield store
    store.close()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the checkpoints read from disk, in order."""
    seen: list[str] = []

    def counted(checkpoint_id: str, *args: Any) -> Policy:
        seen.append(checkpoint_id)
        return load(checkpoint_id, *args)

    monkeypatch.setattr(module, "load", counted)
    return seen


def ask(store: PolicyStore, run_id: str, reference: str = "best") -> str:
    """The id of the checkpoint that answers."""
    return asyncio.run(store.get(run_id, reference)).checkpoint_id


def forget(store: PolicyStore) -> None:
    """As if a second had passed."""
    store._references.clear()


class TestReferences:
    def test_best_is_the_best_else_the_newest(self, service: Service, store: PolicyStore) -> None:
        run_id = service.run()
        service.checkpoint(run_id, BUNDLE, GRAPH, env_steps=10)
        newest = service.checkpoint(run_id, BUNDLE, GRAPH, env_steps=20)
        assert ask(store, run_id) == newest
        forget(store)
        best = service.checkpoint(run_id, BUNDLE, GRAPH, env_steps=15, kind="best")
        assert ask(store, run_id) == best

    def test_final_and_ids(self, service: Service, store: PolicyStore) -> None:
        run_id = service.run()
        scheduled = service.checkpoint(run_id, BUNDLE, GRAPH)
        with pytest.raises(Conflict, match="no final checkpoint yet"):
            ask(store, run_id, "final")
        final = service.checkpoint(run_id, BUNDLE, GRAPH, kind="final")
        forget(store)
        assert ask(store, run_id, "final") == final
        assert ask(store, run_id, scheduled) == scheduled

    def test_what_there_is_not(self, service: Service, store: PolicyStore) -> None:
        other = service.checkpoint(service.run(), BUNDLE, GRAPH)
        run_id = service.run()
        with pytest.raises(Conflict, match="is running and has no checkpoint yet"):
            ask(store, run_id)
        with pytest.raises(NotFound, match="has no checkpoint ckpt_"):
            ask(store, run_id, other)
        for stranger in ("run_0", "nonsense", "run_\0"):
            with pytest.raises(NotFound, match="no run"):
                ask(store, stranger)

    def test_an_answer_holds_for_a_second(
        self, service: Service, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = service.run()
        first = service.checkpoint(run_id, BUNDLE, GRAPH, env_steps=1)
        assert ask(store, run_id) == first
        second = service.checkpoint(run_id, BUNDLE, GRAPH, env_steps=2)
        cached = store.cached(run_id, "best")
        assert cached is not None and cached.checkpoint_id == first
        now = module.time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + 1.5)
        assert store.cached(run_id, "best") is None
        assert ask(store, run_id) == second

    def test_refusals_are_remembered_too(self, service: Service, store: PolicyStore) -> None:
        run_id = service.run()
        for _ in range(3):
            with pytest.raises(Conflict):
                ask(store, run_id)
        service.checkpoint(run_id, BUNDLE, GRAPH)
        with pytest.raises(Conflict):
            ask(store, run_id)
        forget(store)
        ask(store, run_id)

    def test_they_outlive_the_database(
        self, service: Service, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "REFERENCE_SECONDS", -1.0)
        run_id = service.run()
        checkpoint_id = service.checkpoint(run_id, BUNDLE, GRAPH)
        assert ask(store, run_id) == checkpoint_id
        with service.database.writing() as session:
            session.connection().exec_driver_sql("ALTER TABLE runs RENAME TO walks")
        assert ask(store, run_id) == checkpoint_id
        with pytest.raises(SQLAlchemyError):
            ask(store, run_id, "final")

    def test_their_number_is_bounded(self, store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_REFERENCES", 5)
        for index in range(20):
            with pytest.raises(NotFound):
                ask(store, f"run_{index}")
        assert len(store._references) == 5


class TestLoading:
    def test_many_requests_load_once(self, service: Service, store: PolicyStore, loads: list[str]) -> None:
        run_id = service.run()
        best = service.checkpoint(run_id, BUNDLE, GRAPH, kind="best")

        async def crowd() -> list[Policy]:
            by_two_names = [store.get(run_id, reference) for reference in ("best", best) for _ in range(20)]
            return await asyncio.gather(*by_two_names)

        policies = asyncio.run(crowd())
        assert loads == [best]
        assert {id(policy) for policy in policies} == {id(policies[0])}

    def test_a_request_that_goes_away_does_not_stop_the_load(
        self, service: Service, store: PolicyStore, loads: list[str]
    ) -> None:
        run_id = service.run()
        service.checkpoint(run_id, BUNDLE, GRAPH)

        async def leave() -> None:
            first = asyncio.create_task(store.get(run_id, "best"))
            second = asyncio.create_task(store.get(run_id, "best"))
            await asyncio.sleep(0)
            first.cancel()
            await second

        asyncio.run(leave())
        assert len(loads) == 1

    def test_the_least_recently_used_is_dropped(self, service: Service, loads: list[str]) -> None:
        runs = [service.run() for _ in range(3)]
        ids = [service.checkpoint(run_id, BUNDLE, GRAPH) for run_id in runs]
        size = load(ids[0], *service.files(ids[0])).bytes
        store = PolicyStore(service.database, service.root, capacity=2 * size)
        for index in (0, 1, 0, 2, 0, 1):
            if store.cached(runs[index], "best") is None:
                ask(store, runs[index])
        store.close()
        assert loads == [ids[0], ids[1], ids[2], ids[1]]

    def test_a_policy_larger_than_the_cache_is_served(self, service: Service, loads: list[str]) -> None:
        run_id = service.run()
        service.checkpoint(run_id, BUNDLE, GRAPH)
        store = PolicyStore(service.database, service.root, capacity=1)
        ask(store, run_id)
        assert store.cached(run_id, "best") is not None
        store.close()

    def test_a_damaged_bundle_is_refused_and_not_read_at_every_request(
        self, service: Service, store: PolicyStore, loads: list[str]
    ) -> None:
        run_id = service.run()
        checkpoint_id = service.checkpoint(run_id, BUNDLE, GRAPH)
        (service.folder(checkpoint_id) / "policy.onnx").write_bytes(GRAPH + b"\0")
        for _ in range(5):
            with pytest.raises(Damaged, match=r"policy\.onnx differs from the checkpoint's manifest"):
                ask(store, run_id)
        assert len(loads) == 2
        (service.folder(checkpoint_id) / "policy.onnx").write_bytes(GRAPH)
        forget(store)
        assert ask(store, run_id) == checkpoint_id

    def test_files_that_cannot_be_read_now_may_be_read_later(self, service: Service, store: PolicyStore) -> None:
        run_id = service.run()
        checkpoint_id = service.checkpoint(run_id, BUNDLE, GRAPH)
        graph = service.folder(checkpoint_id) / "policy.onnx"
        graph.unlink()
        graph.mkdir()
        with pytest.raises(Unavailable, match=f"{checkpoint_id} cannot be read: Is a directory"):
            ask(store, run_id)
        graph.rmdir()
        graph.write_bytes(GRAPH)
        assert ask(store, run_id) == checkpoint_id

    def test_a_checkpoint_replaced_since_it_was_found_is_found_anew(self, service: Service, store: PolicyStore) -> None:
        run_id = service.run()
        gone = service.checkpoint(run_id, BUNDLE, GRAPH, kind="best")
        ask(store, run_id)
        store._policies.clear()
        for file in service.folder(gone).iterdir():
            file.unlink()
        better = service.checkpoint(run_id, BUNDLE, GRAPH, kind="best", env_steps=20)
        assert ask(store, run_id) == better


def test_errors_do_not_pile_up_tracebacks(service: Service, store: PolicyStore) -> None:
    run_id = service.run()
    lengths = set()
    for _ in range(3):
        with pytest.raises(AppError) as caught:
            ask(store, run_id)
        lengths.add(len(caught.traceback))
    assert len(lengths) <= 2


def test_a_policy_in_memory_does_not_wait_for_another_one_to_load(
    service: Service, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = service.run(), service.run()
    service.checkpoint(here, BUNDLE, GRAPH)
    slow = service.checkpoint(elsewhere, BUNDLE, GRAPH)
    ask(store, here)
    reading, disk = threading.Event(), threading.Event()

    def from_a_slow_disk(*args: Any) -> Policy:
        reading.set()
        disk.wait()
        return load(*args)

    async def both() -> str:
        loading = asyncio.create_task(store.get(elsewhere, "best"))
        while not reading.is_set():
            await asyncio.sleep(0.001)
        forget(store)
        await store.get(here, "best")
        assert not loading.done()
        disk.set()
        return (await loading).checkpoint_id

    monkeypatch.setattr(module, "load", from_a_slow_disk)
    assert asyncio.run(both()) == slow
