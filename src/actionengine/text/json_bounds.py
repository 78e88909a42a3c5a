"""Bounds of all JSON that is written, so that each reader of this library can read it again."""

from __future__ import annotations

import re
from typing import Final

from pydantic_core import from_json

MAX_JSON_DEPTH: Final = 128
"""Levels of containers in written JSON. The parser reads 200: the log, an approval or an envelope around the JSON needs
the rest."""

MAX_JSON_DIGITS: Final = 4300
"""Digits of a written integer: Python and the parser convert no more."""

_DIGITS = frozenset(b"0123456789")
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_readable(encoded: bytes) -> None:
    """Raise `ValueError` for JSON that no reader could read again: nested too deeply, or with a too long integer."""
    if is_deeper(encoded, MAX_JSON_DEPTH):
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
    # Every run of too many digits covers one of these bytes, so that few values are parsed.
    if not _DIGITS.isdisjoint(encoded[MAX_JSON_DIGITS :: MAX_JSON_DIGITS + 1]):
        try:
            from_json(encoded)
        except ValueError as error:
            if "number" in str(error):
                raise ValueError(f"an integer in it has more than {MAX_JSON_DIGITS} digits") from None
            raise


def has_more_values(encoded: bytes, limit: int) -> bool:
    """Return whether JSON without white space has more than `limit` values: itself, items of lists and members of
    objects, at any depth. C code counts them, before anything is parsed."""
    # The bytes, and the commas and brackets anywhere, bound the number from above, so that few values are taken apart.
    if len(encoded) <= 2 * limit or _count_values(encoded) <= limit:
        return False
    # A value has at most two texts: its key and itself.
    if encoded.count(b'"') - encoded.count(b'\\"') > 4 * limit:
        return True
    return _count_values(_TEXT.sub(b"0", encoded)) > limit


def _count_values(encoded: bytes) -> int:
    # Before each value but the first stands a comma, or the bracket that opens its container.
    opened = encoded.count(b"[") + encoded.count(b"{")
    return 1 + encoded.count(b",") + opened - encoded.count(b"[]") - encoded.count(b"{}")


def is_deeper(encoded: bytes, limit: int) -> bool:
    """Return whether JSON has more than `limit` levels of containers.

    It takes at most `limit` passes over the brackets, each in C code: a pass removes the innermost containers.
    """
    # The number of brackets bounds the depth from above, so that few values need a pass.
    if len(encoded) <= 2 * limit or encoded.count(b"{") + encoded.count(b"[") <= limit:
        return False
    brackets = _TEXT.sub(b"", encoded).translate(_AS_LISTS, _NO_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
