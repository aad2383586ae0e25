"""Resume states on disk: safetensors and JSON in a folder that appears whole or not at all.

``state.json`` names every file with its SHA-256 and every tensor with the files it is made of. Large tensors (replays)
lie in segments cut along axis 1; a segment whose content the previous state already holds is hard-linked, not written,
so saving a replay again costs what was added to it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worker.rl.errors import CorruptState, IncompatibleState
from worker.rl.reporter import State

FORMAT = 2
"""Raised with whatever makes older states unreadable. 2: ``evaluated`` in the meta."""
MANIFEST = "state.json"
SMALL = "state.safetensors"
SEGMENT_BYTES = 16 * 2**20


def save_state(state: State, folder: Path, previous: Path | None = None) -> None:
    """Write ``state`` to ``folder``, durably: a neighbouring folder, fsync, rename. A folder that exists stays.

    Args:
        previous: folder of an earlier state whose segments may be linked; need not exist any more.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(state, scratch, _digests(previous))
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _sync(folder.parent)


def load_state(folder: Path) -> State:
    """Read and verify a state.

    Raises:
        CorruptState: a file is missing, or is not what was written.
        IncompatibleState: a version that writes another format wrote it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise IncompatibleState(f"the resume state has format {manifest['format']}; this version reads {FORMAT}")
        contents = {name: _verified(folder / name, digest) for name, digest in manifest["files"].items()}
        tensors: dict[str, Tensor] = load(contents.pop(SMALL))
        for name, segments in manifest["segments"].items():
            tensors[name] = torch.cat([load(contents.pop(segment))["segment"] for segment in segments], 1)
        return State(tensors, manifest["meta"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CorruptState(f"the resume state cannot be read: {type(error).__name__}: {error}") from error


def _write(state: State, folder: Path, known: Mapping[str, Path]) -> None:
    small: dict[str, Tensor] = {}
    files: dict[str, str] = {}
    segments: dict[str, list[str]] = {}
    for name, tensor in state.tensors.items():
        if tensor.nbytes <= SEGMENT_BYTES or tensor.ndim < 2:
            small[name] = tensor.contiguous()
            continue
        segments[name] = []
        for part in _segments(tensor):
            content = save({"segment": part.contiguous()})
            digest = hashlib.sha256(content).hexdigest()
            file = f"segment-{digest[:32]}.safetensors"
            if file not in files:
                _place(folder / file, content, known.get(digest))
            files[file] = digest
            segments[name].append(file)
    files[SMALL] = _put(folder / SMALL, save(small))
    manifest: dict[str, Any] = {"format": FORMAT, "meta": state.meta, "files": files, "segments": segments}
    _put(folder / MANIFEST, json.dumps(manifest, allow_nan=False).encode())
    _sync(folder)


def _segments(tensor: Tensor) -> Iterator[Tensor]:
    """Pieces along axis 1 of about ``SEGMENT_BYTES``, cut at the same places however far the axis has grown."""
    row = max(1, tensor.nbytes // tensor.shape[1])
    yield from tensor.split(max(1, SEGMENT_BYTES // row), 1)


def _place(path: Path, content: bytes, known: Path | None) -> None:
    """Link what the earlier state says is the same. Its length is checked, not its content: reading costs as much as
    writing. What is damaged otherwise is found by :func:`load_state`, as it would be in the earlier state."""
    if known is not None:
        try:
            if known.stat().st_size == len(content):
                os.link(known, path)
                return
        except OSError:
            pass  # retired meanwhile, or a file system without links
    _put(path, content)


def _put(path: Path, content: bytes) -> str:
    """Write durably; the SHA-256."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _digests(folder: Path | None) -> dict[str, Path]:
    """The files of an earlier state by SHA-256; none if it is gone or unreadable."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"] if folder is not None else {}
        return {digest: folder / name for name, digest in files.items()} if folder is not None else {}
    except (OSError, ValueError, KeyError):
        return {}


def _verified(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise CorruptState(f"{path.name} of the resume state is damaged")
    return content


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
