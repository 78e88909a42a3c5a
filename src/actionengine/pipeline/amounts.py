"""Amounts of budgets: numbers as whole trillionths, and numeric fields of an input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel, RootModel
from typing_extensions import is_typeddict

from actionengine.storage.counters import DECIMALS, MAX_LIMIT, ONE

_MAX_EXPONENT = 40
"""Powers of ten beyond which a number is above all limits."""

_NO_NUMBERS = (str, bytes, bool, list, tuple, set, frozenset, dict, date, time, timedelta, UUID, BaseModel, Enum)


def to_trillionths(number: object) -> int:
    """Return a number in trillionths. Numbers above all limits are returned as one that is.

    Raise `ValueError` for anything but a finite number from 0 with up to 12 decimals.
    """
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        raise ValueError("it must be a number")
    if isinstance(number, int):
        if number < 0:
            raise ValueError("it must not be negative")
        return min(int(number), 2 * MAX_LIMIT) * ONE
    # The shortest text of a float is the number that was written.
    exact = Decimal(float.__repr__(number)) if isinstance(number, float) else number
    sign, digits, exponent = exact.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("it must be a finite number")
    if not any(digits):
        return 0
    if sign:
        raise ValueError("it must not be negative")
    if exact.adjusted() > _MAX_EXPONENT:
        return 2 * MAX_LIMIT * ONE
    shift = exponent + DECIMALS
    whole = int("".join(map(str, digits)))
    if shift >= 0:
        return whole * int(10**shift)
    trillionths, rest = divmod(whole, int(10**-shift)) if -shift <= len(digits) else (0, 1)
    if rest:
        raise ValueError(f"it must have at most {DECIMALS} decimals")
    return trillionths


def to_decimal(trillionths: int) -> Decimal:
    """Return an amount exactly, without zeros at its end."""
    whole, rest = divmod(abs(trillionths), ONE)
    decimals = f"{rest:0{DECIMALS}d}".rstrip("0")
    return Decimal(f"{'-' if trillionths < 0 else ''}{whole}{'.' if decimals else ''}{decimals}")


def to_number(trillionths: int) -> int | float:
    """Return an amount as a number of JSON: a whole one, or the nearest float."""
    return trillionths // ONE if trillionths % ONE == 0 else float(to_decimal(trillionths))


def value_at(data: object, path: Sequence[str]) -> object:
    """Return the value of a field inside a validated input; None where it is missing."""
    for name in path:
        data = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    return data


def numeric_field_problem(model: object, path: Sequence[str]) -> str | None:
    """Return the reason why this field of a model holds no number; None where it does, or where that cannot be told."""
    for depth, name in enumerate(path, 1):
        fields = _fields(model)
        if fields is None:
            return None
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            return f"{_name(model)} has no field {name!r} (its fields: {known})"
        model = _without_none(fields[name])
        if depth == len(path) and _is_numeric(model) is False:
            return f"the field {name!r} of {_name(model)} is no number"
    return None


def _fields(model: Any) -> dict[str, Any] | None:
    """Return the types of the fields of a model; None where they cannot be told."""
    if not isinstance(model, type):
        return None
    if issubclass(model, BaseModel):
        if issubclass(model, RootModel) or model.model_config.get("extra") == "allow":
            return None
        computed = {name: field.return_type for name, field in model.model_computed_fields.items()}
        return {name: field.annotation for name, field in model.model_fields.items()} | computed
    if dataclasses.is_dataclass(model) or is_typeddict(model):
        try:
            return get_type_hints(model)
        except (NameError, TypeError):
            return None
    return {} if _is_numeric(model) is not None else None


def _is_numeric(annotation: Any) -> bool | None:
    """Return whether values of a type are numbers; None where that cannot be told."""
    annotation = _without_none(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return all(type(each) in (int, float) for each in get_args(annotation))
    if origin in (Union, UnionType):
        known = [_is_numeric(each) for each in get_args(annotation)]
        return True if True in known else (None if None in known else False)
    kind = origin or annotation
    if not isinstance(kind, type):
        return None
    if issubclass(kind, int | float | Decimal) and not issubclass(kind, bool):
        return True
    return False if issubclass(kind, _NO_NUMBERS) else None


def _without_none(annotation: Any) -> Any:
    """Return a type without its annotations, its aliases, and None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif get_origin(annotation) in (Union, UnionType):
            others = [each for each in get_args(annotation) if each is not NoneType]
            if len(others) != 1:
                return annotation
            annotation = others[0]
        else:
            return annotation


def _name(model: object) -> str:
    return getattr(model, "__name__", None) or str(model)
