"""Secrets stay out of everything that is written: fields of `SecretStr` and fields marked `Sensitive()`.

Three nets, because a secret travels. By name: a raw payload is masked where a sensitive field of the action's model
(or its alias) appears, at any depth, whether it validates or not. By type: a model that carries such a field masks it
in its own JSON. By value: what was found under a sensitive name is masked wherever it turns up again in the same
execution, in a text as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from actionengine.json_bounds import MAX_JSON_DEPTH, check_readable
from actionengine.secret_types import (
    MASK,
    MASKING,
    NOTHING,
    Everything,
    Sensitive,
    is_plain,
    leaves,
    revealed,
    searchable_json,
    sensitive_names,
    typed_secrets,
)

__all__ = [
    "MASK",
    "NOTHING",
    "Everything",
    "Learn",
    "Sensitive",
    "check_finite",
    "encode",
    "forms_of",
    "mask",
    "mask_by_type",
    "masked_by_name",
    "masked_finite_json",
    "masked_json",
    "masked_json_of",
    "revealed_json",
    "scrub",
    "scrub_json",
    "scrub_text",
    "searchable_json",
    "secrets_in",
    "sensitive_names",
]

_SHORTEST_IN_TEXT = 4
_SHORTEST_LINE = 8


Learn = Callable[[Iterable[str]], None]
"""Gets the secrets that are found while something is masked."""


def masked_json(value: Any, learn: Learn | None = None, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON in which everything is masked that its types say is secret.

    Raises `ValueError` where it has no JSON form, or one that could not be read again.
    """
    encoded = encode(value, fallback)
    return encoded if is_plain(value) else mask_by_type(encoded, value, learn)


def encode(value: Any, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON, as far as its serializers mask it: `mask_by_type` does the rest. Raises as `masked_json`
    does."""
    encoded = to_json(value, context=MASKING, inf_nan_mode="null", fallback=fallback)
    if len(encoded) > MAX_JSON_DEPTH:
        check_readable(encoded)
    return encoded


def masked_finite_json(value: Any, learn: Learn | None = None) -> bytes:
    """Return the same. Raises `ValueError` for a number that is not finite, too: it would be read as null."""
    encoded = encode(value)
    if is_plain(value):
        return encoded
    check_finite(value, encoded)
    return mask_by_type(encoded, value, learn)


def masked_json_of(adapter: TypeAdapter[Any], value: Any, learn: Learn | None = None) -> bytes:
    """Return the same for a value of a type, which says what in it is secret where the value itself does not."""
    encoded = adapter.dump_json(value, context=MASKING, by_alias=True)
    check_readable(encoded)
    if is_plain(value):
        return encoded
    check_finite(value, encoded)
    return mask_by_type(encoded, value, learn)


def mask_by_type(encoded: bytes, value: Any, learn: Learn | None) -> bytes:
    """Return the JSON of a value without what its types say is secret, and no serializer has masked."""
    found = typed_secrets(value)
    if found.values and learn is not None:
        learn(found.values)
    return masked_by_name(encoded, found.names) if found.names else encoded


def masked_by_name(encoded: bytes, names: frozenset[str], learn: Learn | None = None) -> bytes:
    """Return JSON with what stands under these names masked."""
    value = from_json(encoded)
    if learn is not None:
        learn(secret for secret in secrets_in(value, names) if secret != MASK)
    return to_json(mask(value, names))


def check_finite(value: Any, encoded: bytes) -> None:
    """Raise `ValueError` for a value, of which `encoded` is the JSON, with a number in it that is not finite."""
    if b"null" in encoded and _inf_nan_json(value, "null") != _inf_nan_json(value, "constants"):
        raise ValueError("a number in it is not finite")


def _inf_nan_json(value: Any, mode: Literal["null", "constants"]) -> bytes:
    return to_json(value, context=MASKING, inf_nan_mode=mode)


def revealed_json(value: Any, by_alias: bool = True) -> bytes:
    """Return a value as JSON, secrets and all: for what must be run or given back again."""
    return to_json(revealed(value, by_alias), inf_nan_mode="null")


def mask(value: Any, names: frozenset[str]) -> Any:
    """Return a copy of a JSON value with what stands under these names masked."""
    if isinstance(names, Everything):
        return MASK
    if isinstance(value, dict):
        return {key: MASK if key in names else mask(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, names) for item in value]
    return value


def secrets_in(value: Any, names: frozenset[str]) -> Iterator[str]:
    """Yield the texts and numbers of a JSON value that stand under these names."""
    if isinstance(names, Everything):
        yield from leaves(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item) if key in names else secrets_in(item, names)
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item, names)


def forms_of(secret: str) -> Iterator[str]:
    """Yield a secret as it may turn up in a text: as it is, as Python or JSON quote it, trimmed, and line by line."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    if trimmed := secret.strip():
        yield trimmed
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _SHORTEST_LINE)


def scrub_text(text: str, secrets: set[str]) -> str:
    """Return a text with these secrets masked; where two overlap, nothing of either remains."""
    if text in secrets:
        return MASK
    spans = sorted(span for secret in secrets if len(secret) >= _SHORTEST_IN_TEXT for span in _spans(text, secret))
    if not spans:
        return text
    parts, position = [], 0
    for start, end in spans:
        if start >= position:
            parts += [text[position:start], MASK]
        position = max(position, end)
    return "".join((*parts, text[position:]))


def _spans(text: str, secret: str) -> Iterator[tuple[int, int]]:
    start = text.find(secret)
    while start >= 0:
        yield start, start + len(secret)
        start = text.find(secret, start + 1)


def scrub(value: Any, secrets: set[str]) -> Any:
    """Return a copy of a JSON value with these secrets masked, in keys and in values."""
    if isinstance(value, str):
        return scrub_text(value, secrets)
    if isinstance(value, dict):
        return {scrub_text(key, secrets): scrub(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item, secrets) for item in value]
    if isinstance(value, (int, float)) and len(str(value)) >= _SHORTEST_IN_TEXT and str(value) in secrets:
        return MASK
    return value


def scrub_json(encoded: bytes, secrets: set[str]) -> bytes:
    """Return `scrub` of JSON that is encoded already."""
    return to_json(scrub(from_json(encoded), secrets))
