import json
from pathlib import Path

import pytest
import torch

from worker.rl import checkpoint
from worker.rl.checkpoint import MANIFEST, load_state, save_state
from worker.rl.errors import CorruptState, IncompatibleState
from worker.rl.reporter import State

ROW = 1024


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 4 * ROW)


def state(rows: int = 10, step: int = 100) -> State:
    """Two replicas; a ring of ``rows`` rows, four to a segment."""
    g = torch.Generator().manual_seed(0)
    ring = torch.randint(0, 256, (2, 12, ROW // 2), generator=g, dtype=torch.uint8)[:, :rows]
    small = {"weights": torch.randn(2, 7, generator=g), "count": torch.arange(2), "flags": torch.tensor([True, False])}
    return State(small | {"replay/obs": ring}, {"env_step": step, "numbers": {"agent/updates": 3, "x": 0.5}})


def same(a: State, b: State) -> bool:
    tensors = a.tensors.keys() == b.tensors.keys() and all(torch.equal(t, b.tensors[k]) for k, t in a.tensors.items())
    return tensors and a.meta == b.meta


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.glob("segment-*")}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "jobs" / "100")
    assert same(load_state(tmp_path / "jobs" / "100"), state())
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["100"]


def test_unchanged_segments_are_linked_and_new_ones_written(tmp_path: Path) -> None:
    save_state(state(8), tmp_path / "a")
    save_state(state(12, 200), tmp_path / "b", tmp_path / "a")
    before, after = inodes(tmp_path / "a"), inodes(tmp_path / "b")
    assert before and before < after
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    assert same(load_state(tmp_path / "b"), state(12, 200))


def test_a_segment_that_was_cut_short_is_not_linked(tmp_path: Path) -> None:
    save_state(state(8), tmp_path / "a")
    for path in (tmp_path / "a").glob("segment-*"):
        path.write_bytes(path.read_bytes()[:-3])
    save_state(state(8, 200), tmp_path / "b", tmp_path / "a")
    assert same(load_state(tmp_path / "b"), state(8, 200))


@pytest.mark.parametrize("previous", ["gone", "unreadable"])
def test_a_previous_state_is_a_help_and_no_need(tmp_path: Path, previous: str) -> None:
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / MANIFEST).write_text("{")
    save_state(state(), tmp_path / "a", tmp_path / previous)
    assert same(load_state(tmp_path / "a"), state())


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    save_state(state(2, 100), tmp_path / "a")
    save_state(state(4, 200), tmp_path / "a")
    assert load_state(tmp_path / "a").env_step == 100


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("victim", ["state.safetensors", "segment", MANIFEST])
def test_damage_is_found(tmp_path: Path, damage: str, victim: str) -> None:
    save_state(state(), tmp_path / "a")
    path = next(path for path in sorted((tmp_path / "a").iterdir()) if path.name.startswith(victim))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-3])
        case _:
            path.unlink()
    with pytest.raises(CorruptState):
        load_state(tmp_path / "a")


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_state(state(), tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(IncompatibleState, match="format 99"):
        load_state(tmp_path / "a")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    broken = State({"w": torch.zeros(1, 1)}, {"env_step": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_state(broken, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_select_takes_replicas() -> None:
    taken = state().select([1])
    assert torch.equal(taken.tensors["weights"], state().tensors["weights"][1:])
    assert taken.meta == state().meta
