"""Folders under the artifact root: they appear whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_folder(root: Path, path: str, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Write files to ``root/path`` durably: a folder of another name, fsync, rename. Returns their manifest.

    A folder that is there already stays as it is: its name holds attempt and step, so it is the same policy.

    Raises:
        OSError: the disk is full, or the like; nothing is left at ``path``.
    """
    target = root / path
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _fill(folder, files)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _sync_folder(target.parent)
    return [_entry(name, (target / name).read_bytes()) for name in files]


def remove(root: Path, paths: Iterable[str]) -> None:
    """Remove folders that no row names any more; what cannot be removed is left to the sweeper."""
    for path in paths:
        shutil.rmtree(root / path, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.chmod(0o755)
    for name, content in files.items():
        with (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync_folder(folder)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
