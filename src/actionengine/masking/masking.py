"""Secrets stay out of everything that is written: fields of `SecretStr` and fields marked `Sensitive()`.

Three nets, because a secret travels. By name: a raw payload is masked where a sensitive field of the action's model
(or its alias) appears, at any depth, whether it validates or not. By type: a model that carries such a field masks it
in its own JSON. By value: what was found under a sensitive name is masked wherever it turns up again in the same
execution, in a text as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from actionengine.masking.secret_types import (
    CONTAINERS,
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
from actionengine.text.json_bounds import MAX_JSON_DEPTH, check_readable

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

_MIN_LENGTH_IN_TEXT = 4
_MIN_LINE_LENGTH = 8

_FEW = 8
"""Secrets that are looked for in a text of any length."""
_MAX_COMPARED_BYTES = 8 * 1024 * 1024
"""Characters of a text times secrets that may be in it: comparing so many takes some tens of milliseconds."""
_MAX_SEARCHES = 250_000
"""Texts of a value times secrets that are in it."""
_MAX_SPANS = 10_000
"""Places of one text where a secret stands."""

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
    return MASK if isinstance(names, Everything) else _masked(value, names)


def _masked(value: Any, names: frozenset[str]) -> Any:
    # A call takes longer than all else here: scalars need none.
    kind = type(value)
    if kind is dict:
        return {
            key: MASK if key in names else _masked(item, names) if type(item) in CONTAINERS else item
            for key, item in value.items()
        }
    if kind is list:
        return [_masked(item, names) if type(item) in CONTAINERS else item for item in value]
    return value


def secrets_in(value: Any, names: frozenset[str]) -> list[str]:
    """Return the texts and numbers of a JSON value that stand under these names."""
    if isinstance(names, Everything):
        return leaves(value)
    found: list[str] = []
    waiting = [value]
    for each in waiting:
        if type(each) is dict:
            for key, item in each.items():
                if key in names:
                    found += leaves(item)
                elif type(item) in CONTAINERS:
                    waiting.append(item)
        elif type(each) is list:
            waiting += [item for item in each if type(item) in CONTAINERS]
    return found


def forms_of(secret: str) -> Iterator[str]:
    """Yield a secret as it may turn up in a text: as it is, as Python or JSON quote it, trimmed, and line by line."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    if trimmed := secret.strip():
        yield trimmed
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _MIN_LINE_LENGTH)


def scrub_text(text: str, secrets: set[str]) -> str:
    """Return a text with these secrets masked; where two overlap, nothing of either remains.

    All of it is masked where that would take too long: whoever sends a payload chooses the secrets and the text.
    """
    if text in secrets:
        return MASK
    near = _near(text, secrets)
    return MASK if near is None else _scrub_text(text, near)


def scrub(value: Any, secrets: set[str]) -> Any:
    """Return a JSON value with these secrets masked, in keys and in values; or all of it masked, as `scrub_text`
    does."""
    if not secrets:
        return value
    texts, numbers = _leaves_of(value)
    near = _near("\0".join(texts), secrets)
    if near is None or len(near) * len(texts) > _MAX_SEARCHES:
        return MASK
    if not near and secrets.isdisjoint(texts) and secrets.isdisjoint(numbers):
        return value
    return _scrub(value, secrets, near)


def _scrub(value: Any, secrets: set[str], near: Sequence[str]) -> Any:
    if isinstance(value, str):
        return MASK if value in secrets else _scrub_text(value, near)
    if isinstance(value, dict):
        return {_scrub(key, secrets, near): _scrub(item, secrets, near) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrub(item, secrets, near) for item in value]
    if isinstance(value, (int, float)) and len(str(value)) >= _MIN_LENGTH_IN_TEXT and str(value) in secrets:
        return MASK
    return value


def _leaves_of(value: Any) -> tuple[list[str], list[str]]:
    """Return the texts of a JSON value, keys among them, and its numbers."""
    texts: list[str] = []
    numbers: list[str] = []
    waiting = [value]
    for each in waiting:
        if isinstance(each, str):
            texts.append(each)
        elif isinstance(each, dict):
            waiting += each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, (int, float)):
            numbers.append(str(each))
    return texts, numbers


def _near(text: str, secrets: set[str]) -> Sequence[str] | None:
    """Return the secrets that stand in a text and are long enough to be found there; None where looking for them takes
    too long."""
    near = [secret for secret in secrets if len(secret) >= _MIN_LENGTH_IN_TEXT]
    if len(near) > _FEW:
        beginnings = {text[at : at + _MIN_LENGTH_IN_TEXT] for at in range(len(text) - _MIN_LENGTH_IN_TEXT + 1)}
        near = [secret for secret in near if secret[:_MIN_LENGTH_IN_TEXT] in beginnings]
    if len(near) > _FEW and len(near) * len(text) > _MAX_COMPARED_BYTES:
        return None
    return [secret for secret in near if secret in text]


def _scrub_text(text: str, near: Sequence[str]) -> str:
    if not near:
        return text
    spans = sorted(islice((span for secret in near for span in _spans(text, secret)), _MAX_SPANS + 1))
    if not spans:
        return text
    if len(spans) > _MAX_SPANS:
        return MASK
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


def scrub_json(encoded: bytes, secrets: set[str]) -> bytes:
    """Return `scrub` of JSON that is encoded already."""
    value = from_json(encoded)
    scrubbed = scrub(value, secrets)
    return encoded if scrubbed is value else to_json(scrubbed)
