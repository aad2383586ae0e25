"""One loaded policy: a verified bundle in an ONNX Runtime session."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from pydantic import ValidationError

from app.schemas.bundle import PolicyBundle
from app.schemas.environments import BoxSpace, DiscreteSpace, brightest
from app.serving.sampling import Actions, Decoder, Observations, keys

SESSION_BYTES: Final = 128 * 1024
"""What a session takes beside its weights (seen: 0.08 MB in all for 64-wide layers)."""
_WARM_UP_BATCH: Final = 16


class DamagedBundle(Exception):
    """The files of a bundle are missing, are not those of the manifest, or cannot be loaded."""


class Policy:
    """Answers observations with actions. Safe to call from several threads at once."""

    def __init__(self, checkpoint_id: str, model: bytes, bundle: PolicyBundle) -> None:
        self.checkpoint_id = checkpoint_id
        space = bundle.observation
        self.shape = space.shape if isinstance(space, BoxSpace) else ()
        self.states = range(space.start, space.start + space.n) if isinstance(space, DiscreteSpace) else None
        """What observations may be, where they are the integers of a discrete space."""
        self.bytes = SESSION_BYTES + 2 * len(model)  # the runtime keeps packed copies of weights
        self._decoder = Decoder(bundle)
        self._session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        self._outputs = list(self._decoder.outputs)
        images = self._session.get_inputs()[0].type == "tensor(uint8)"
        self.pixels = range(brightest(space) + 1) if images and isinstance(space, BoxSpace) else None
        """What a pixel may be, where observations are images."""
        self._call_seconds = self._time(1, repeats=5)
        self._row_seconds = self._time(_WARM_UP_BATCH, repeats=3) / _WARM_UP_BATCH

    def act(self, observations: Observations, *, seed: int | None) -> Actions:
        """Actions (B, …) for observations (B, *shape); ``seed`` None: the most likely ones."""
        outputs = self._session.run(self._outputs, {"observation": observations})
        return self._decoder.actions(outputs, None if seed is None else keys(seed, observations))

    def seconds(self, batch: int) -> float:
        """How long :meth:`act` takes at most, extrapolated from the samples drawn at the warm-up."""
        return max(self._call_seconds, batch * self._row_seconds)

    def _blank(self, batch: int) -> Observations:
        if self.states is not None:
            return np.full(batch, self.states.start, np.int64)
        shape = (batch, *self.shape)
        return np.zeros(shape, np.uint8) if self.pixels else np.zeros(shape, np.float32)

    def _time(self, batch: int, *, repeats: int) -> float:
        observations = self._blank(batch)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            self.act(observations, seed=0)
            best = min(best, time.perf_counter() - start)
        return best


def load(checkpoint_id: str, folder: Path, manifest: Sequence[Mapping[str, Any]]) -> Policy:
    """Read, verify and warm up a bundle.

    Args:
        manifest: ``{name, bytes, sha256}`` per file, from the checkpoint's row.

    Raises:
        DamagedBundle: with the reason in words.
        OSError: the files are there, but cannot be read now.
    """
    model = _read(folder, manifest, "policy.onnx")
    description = _read(folder, manifest, "bundle.json")
    try:
        return Policy(checkpoint_id, model, PolicyBundle.model_validate_json(description))
    except ValidationError as error:
        raise DamagedBundle(f"bundle.json is not understood: {error.error_count()} fields are wrong") from error
    except Exception as error:  # the runtime has a class of its own per failure
        raise DamagedBundle(f"policy.onnx does not run: {error}") from error


def _read(folder: Path, manifest: Sequence[Mapping[str, Any]], name: str) -> bytes:
    entry = next((entry for entry in manifest if entry["name"] == name), None)
    if entry is None:
        raise DamagedBundle(f"{name} is not in the checkpoint's manifest")
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise DamagedBundle(f"{name} is gone") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DamagedBundle(f"{name} differs from the checkpoint's manifest")
    return content


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it would keep what the largest batch took, and gains nothing here
    options.log_severity_level = 4  # failures are raised
    return options
