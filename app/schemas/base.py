"""The base of every schema: frozen, closed to unknown fields, finite numbers only."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, model_validator

Item = TypeVar("Item")
Items = Annotated[tuple[Item, ...], Strict(False)]
"""A list in JSON."""


class Schema(BaseModel):
    """A frozen value object. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class SpecSchema(Schema):
    """What users write. Values have the types that JSON Schema gives them: no string is a number, 1.0 is an integer.

    Lists are declared as ``Items``.
    """

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _take_integers(cls, given: Any) -> Any:
        return {name: _integers(value) for name, value in given.items()} if isinstance(given, dict) else given


def _integers(value: Any) -> Any:
    """A field's value with 1 for 1.0, also in a list; where floats belong, a float is made of it again."""
    return [_integer(item) for item in value] if isinstance(value, list | tuple) else _integer(value)


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with a request: a JSON pointer to the field, what is wrong, how to mend it."""

    pointer: str
    message: str
    suggestion: str | None = None
    allowed: tuple[str, ...] | None = None


class SpecError(ValueError):
    """A spec that is well formed but cannot be trained. Carries every :class:`FieldError` found."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


def closest(word: str, known: list[str]) -> str | None:
    """The known word most like ``word``, or None when nothing comes near."""
    folded = {name.lower(): name for name in reversed(known)}
    matches = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None
