"""Masking of secrets in everything that is written: fields of `SecretStr` and fields marked `Sensitive()`.

A secret travels, so it is masked in three ways. By name: a raw payload is masked under the names (and aliases) of the
sensitive fields of the action's model, at any depth, whether it validates or not. By type: a model masks its sensitive
fields in its own JSON. By value: a value found under a sensitive name is masked wherever it occurs again in the same
execution, also inside a text.
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
    Everything,
    is_plain,
    leaves,
    revealed,
    typed_secrets,
)
from actionengine.text.json_bounds import MAX_JSON_DEPTH, check_readable

_MIN_LENGTH_IN_TEXT = 4
_MIN_LINE_LENGTH = 8

_FEW = 8
"""Secrets that are searched in a text of any length."""
_MAX_COMPARED_BYTES = 8 * 1024 * 1024
"""Characters of a text times the secrets to search in it: some tens of milliseconds."""
_MAX_SEARCHES = 250_000
"""Texts of a value times the secrets in it."""
_MAX_SPANS = 10_000
"""Places of secrets in one text."""

Learn = Callable[[Iterable[str]], None]
"""A callback for the secrets that masking finds."""


def masked_json(value: Any, learn: Learn | None = None, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON, masked where its types declare secrets. Raise `ValueError` for a value without a JSON
    form, or with one that could not be read again."""
    encoded = encode(value, fallback)
    return encoded if is_plain(value) else mask_by_type(encoded, value, learn)


def encode(value: Any, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON, masked by its serializers only; `mask_by_type` does the rest. Raise as `masked_json`
    does."""
    encoded = to_json(value, context=MASKING, inf_nan_mode="null", fallback=fallback)
    if len(encoded) > MAX_JSON_DEPTH:
        check_readable(encoded)
    return encoded


def masked_finite_json(value: Any, learn: Learn | None = None) -> bytes:
    """Return `masked_json`. Raise `ValueError` also for a number that is not finite, which would be read as null."""
    encoded = encode(value)
    if is_plain(value):
        return encoded
    check_finite(value, encoded)
    return mask_by_type(encoded, value, learn)


def masked_json_of(adapter: TypeAdapter[Any], value: Any, learn: Learn | None = None) -> bytes:
    """Return `masked_json` for a value of a type that declares more secrets than the value itself."""
    encoded = adapter.dump_json(value, context=MASKING, by_alias=True)
    check_readable(encoded)
    if is_plain(value):
        return encoded
    check_finite(value, encoded)
    return mask_by_type(encoded, value, learn)


def mask_by_type(encoded: bytes, value: Any, learn: Learn | None) -> bytes:
    """Return the JSON of a value without the secrets that its types declare and no serializer has masked."""
    found = typed_secrets(value)
    if found.values and learn is not None:
        learn(found.values)
    return masked_by_name(encoded, found.names) if found.names else encoded


def masked_by_name(encoded: bytes, names: frozenset[str], learn: Learn | None = None) -> bytes:
    """Return JSON, masked under these names."""
    value = from_json(encoded)
    if learn is not None:
        learn(secret for secret in secrets_in(value, names) if secret != MASK)
    return to_json(mask(value, names))


def check_finite(value: Any, encoded: bytes) -> None:
    """Raise `ValueError` when a value contains a number that is not finite; `encoded` is the value's JSON."""
    if b"null" in encoded and _inf_nan_json(value, "null") != _inf_nan_json(value, "constants"):
        raise ValueError("a number in it is not finite")


def _inf_nan_json(value: Any, mode: Literal["null", "constants"]) -> bytes:
    return to_json(value, context=MASKING, inf_nan_mode=mode)


def revealed_json(value: Any, by_alias: bool = True) -> bytes:
    """Return a value as JSON with its secrets, to run it or to return it again."""
    return to_json(revealed(value, by_alias), inf_nan_mode="null")


def mask(value: Any, names: frozenset[str]) -> Any:
    """Return a copy of a JSON value, masked under these names."""
    return MASK if isinstance(names, Everything) else _masked(value, names)


def _masked(value: Any, names: frozenset[str]) -> Any:
    # The call below is the expensive part: scalars skip it.
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
    """Return the texts and numbers of a JSON value under these names."""
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
    """Yield a secret in the forms that it can take in a text: as it is, quoted by Python or JSON, trimmed, line by
    line."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    if trimmed := secret.strip():
        yield trimmed
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _MIN_LINE_LENGTH)


def scrub_text(text: str, secrets: set[str]) -> str:
    """Return a text with these secrets masked; of two that overlap, nothing remains.

    The whole text is masked when that would take too long: the sender of a payload chooses both the secrets and the
    text.
    """
    if text in secrets:
        return MASK
    near = _near(text, secrets)
    return MASK if near is None else _scrub_text(text, near)


def scrub(value: Any, secrets: set[str]) -> Any:
    """Return a JSON value with these secrets masked in keys and values. All of it is masked when `scrub_text` would do
    so."""
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
    """Return the numbers and texts of a JSON value, including its keys."""
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
    """Return the secrets that occur in a text and are long enough to be searched; None when the search takes too
    long."""
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
    """Return `scrub` of encoded JSON."""
    value = from_json(encoded)
    scrubbed = scrub(value, secrets)
    return encoded if scrubbed is value else to_json(scrubbed)
