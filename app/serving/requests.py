"""The body of an action request: parsed by orjson, checked by hand, turned into one array.

The checks are C loops over the whole batch; only a batch found wrong is walked, to say where.
"""

import re
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from app.errors import Invalid
from app.schemas.base import FieldError, closest
from app.serving.sampling import Observations

MAX_BATCH: Final = 4096
"""Observations in one request."""
MAX_SEED: Final = 2**63 - 1
MAX_UNKNOWN: Final = 10
"""Unknown fields named in one answer."""
MAX_NAME: Final = 100
"""Characters of an unknown field's name that are repeated."""

_FIELDS: Final = frozenset({"observation", "observations", "deterministic", "seed", "checkpoint"})
_CHECKPOINT_ID: Final = re.compile("ckpt_[0-9a-z]{1,40}")
_FLOAT: Final = frozenset({int, float})
_INTEGER: Final = frozenset({int})


class ActionRequest(NamedTuple):
    """A request of which everything but the observations is known to be right: their space is the policy's."""

    observations: list[Any]
    single: bool
    """Whether the body has one ``observation``, to be answered by one ``action``."""
    deterministic: bool
    seed: int | None
    checkpoint: str
    """``best``, ``final`` or a checkpoint's id."""

    @classmethod
    def parse(cls, body: bytes) -> "ActionRequest":
        """Read the JSON object. Raises ``Invalid`` naming every field that is wrong."""
        try:
            fields: Any = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _invalid(FieldError("", f"not valid JSON: {error}")) from None
        if type(fields) is not dict:
            raise _invalid(FieldError("", "must be a JSON object"))
        single = "observation" in fields
        observations: Any = [fields["observation"]] if single else fields.get("observations")
        request = cls(
            observations,
            single,
            fields.get("deterministic", True),
            fields.get("seed"),
            fields.get("checkpoint", "best"),
        )
        errors = _wrong(fields, *request)
        if not _FIELDS.issuperset(fields):
            errors = _unknown(fields.keys() - _FIELDS) + errors
        if errors:
            raise _invalid(*errors)
        return request

    def array(self, shape: Sequence[int], *, pixels: range | None, states: range | None = None) -> Observations:
        """The observations as (B, *shape): uint8 of ``pixels``, int64 of ``states``, whichever is given, else float32.

        Raises ``Invalid`` pointing at the first observation, or the element of it, that does not belong to the space.
        """
        integers = pixels or states
        flat = self.observations
        for size in shape:
            if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
                raise self._misplaced(shape, integers)
            flat = list(chain.from_iterable(flat))
        if not (_FLOAT if integers is None else _INTEGER).issuperset(map(type, flat)):
            raise self._misplaced(shape, integers)
        try:
            if pixels is not None:
                images = np.frombuffer(bytes(flat), np.uint8)
                if images.max() >= pixels.stop:
                    raise self._misplaced(shape, pixels)
                return images.reshape(-1, *shape)
            if states is not None:
                if min(flat) < states.start or max(flat) >= states.stop:
                    raise self._misplaced(shape, states)
                return np.array(flat, np.int64)
            # Refuses what overflows, and takes a third of the time of np.array.
            packed = struct.pack(f"<{len(flat)}f", *flat)
            return np.frombuffer(packed, "<f4").reshape(-1, *shape)
        except (ValueError, OverflowError):
            raise self._misplaced(shape, integers) from None

    def _misplaced(self, shape: Sequence[int], integers: range | None) -> Invalid:
        for index, observation in enumerate(self.observations):
            pointer = "/observation" if self.single else f"/observations/{index}"
            if error := _first_error(observation, pointer, shape, integers):
                return _invalid(error)
        raise AssertionError("a batch was refused whose observations are all right")


def _wrong(
    fields: dict[str, Any], observations: Any, single: bool, deterministic: Any, seed: Any, checkpoint: Any
) -> list[FieldError]:
    errors = []
    if observations is None:
        errors.append(FieldError("", "needs 'observation' or 'observations'"))
    elif type(observations) is not list or not 1 <= len(observations) <= MAX_BATCH:
        errors.append(FieldError("/observations", f"must be a list of 1 to {MAX_BATCH} observations"))
    elif single and "observations" in fields:
        errors.append(FieldError("/observations", "give either 'observation' or 'observations', not both"))
    if type(deterministic) is not bool:
        errors.append(FieldError("/deterministic", "must be true or false"))
    if seed is not None and not (type(seed) is int and 0 <= seed <= MAX_SEED):
        errors.append(FieldError("/seed", "must be an integer from 0 to 2^63 - 1"))
    if checkpoint != "best" and not _names_checkpoint(checkpoint):
        allowed = ("best", "final", "ckpt_…")
        errors.append(FieldError("/checkpoint", "must be 'best', 'final' or the id of a checkpoint", None, allowed))
    return errors


def _names_checkpoint(reference: object) -> bool:
    return reference == "final" or (type(reference) is str and _CHECKPOINT_ID.fullmatch(reference) is not None)


def _unknown(names: set[str]) -> list[FieldError]:
    known = sorted(_FIELDS)
    return [
        FieldError("/" + _escape(name), "unknown field", closest(name, known), tuple(known))
        for name in sorted(name[:MAX_NAME] for name in names)[:MAX_UNKNOWN]
    ]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _first_error(value: object, pointer: str, shape: Sequence[int], integers: range | None) -> FieldError | None:
    """What is wrong with ``value``, which should be nested lists of ``shape``, of these ``integers`` or of numbers."""
    if shape:
        if type(value) is not list or len(value) != shape[0]:
            seen = f"a list of {len(value)}" if type(value) is list else _word(value)
            return FieldError(pointer, f"must be a list of {shape[0]} {'lists' if shape[1:] else 'numbers'}, is {seen}")
        errors = (_first_error(item, f"{pointer}/{index}", shape[1:], integers) for index, item in enumerate(value))
        return next(filter(None, errors), None)
    if integers is not None:
        right = type(value) is int and value in integers
        bounds = f"{integers.start} to {integers.stop - 1}"
        return None if right else FieldError(pointer, f"must be an integer from {bounds}, is {_word(value)}")
    if type(value) not in _FLOAT:
        return FieldError(pointer, f"must be a number, is {_word(value)}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.array(value, np.float32))
    return None if finite else FieldError(pointer, "must fit into a 32-bit float")


def _word(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


def _invalid(*errors: FieldError) -> Invalid:
    first = errors[0]
    return Invalid(f"{first.pointer or 'the body'}: {first.message}", errors=errors)
