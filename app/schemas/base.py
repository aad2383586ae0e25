"""The base of every schema: frozen, closed to unknown fields, finite numbers only."""

from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """A frozen value object. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


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
