"""Configurations checked when they are made, by pydantic; what is wrong is told in one line."""

import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import cache
from typing import Annotated, Any, get_type_hints

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from simclr_core.errors import UserError

Count = Annotated[int, BeforeValidator(lambda v: int(v) if _is_whole(v) else v)]  # 2.0 is 2
_Pair = BeforeValidator(lambda v: tuple(v) if type(v) is list else v)  # as JSON has it
Range = Annotated[tuple[Count, Count], _Pair]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def at_least(least: int, most: int | None = None) -> Any:
    """The type of whole numbers from `least` on, up to `most`."""
    return Annotated[Count, Field(ge=least, le=most)]


def one_of(known: Iterable[str]) -> Any:
    """The type of names in a registry, which may grow."""

    def check(name: str) -> str:
        if name not in known:
            raise UserError(f"{name!r} is unknown; known are {', '.join(known)}")
        return name

    return Annotated[str, AfterValidator(check)]


class Checked:
    """A frozen dataclass whose fields are of their types: a whole number for a float is one."""

    def __post_init__(self) -> None:
        for field in (f for f in fields(self) if f.metadata.get("checked", True)):
            given = getattr(self, field.name)
            try:
                value = _adapter(type(self), field.name).validate_python(given)
            except pydantic.ValidationError as error:
                raise UserError(_in_words(field.name, given, error.errors()[0])) from None
            object.__setattr__(self, field.name, value)

    def record(self) -> dict:
        """Every field, as JSON types (tuples become lists)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@cache
def _adapter(kind: type, field: str) -> pydantic.TypeAdapter:
    hint = get_type_hints(kind, include_extras=True)[field]
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(strict=True))


def _in_words(field: str, value: Any, error: dict) -> str:
    limits = error.get("ctx", {})
    if error["type"] == "value_error":
        return f"{field} {limits['error']}"
    if isinstance(limits.get("ge"), float):
        return f"{field} must be 0 or more and finite, got {value}"
    if "gt" in limits or error["type"] == "finite_number":
        return f"{field} must be positive and finite, got {value}"
    for word, bound in (("at least", "ge"), ("at most", "le")):
        if bound in limits:
            return f"{field} must be {word} {limits[bound]}, got {value}"
    if error["loc"] or "tuple" in error["type"] or error["type"] == "too_long":
        return f"{field} is {value!r:.200}, expected a range (first, one past the last)"
    expected = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{field} is {value!r:.200}, expected {expected}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value.is_integer()
