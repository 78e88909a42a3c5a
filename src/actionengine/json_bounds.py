"""Bounds of every JSON that is written, so that each reader of this library can read it again."""

from __future__ import annotations

import re
from typing import Final

from pydantic_core import from_json

MAX_JSON_DEPTH: Final = 128
"""Containers within containers of JSON that is written. The parser reads 200: the log, an approval or an envelope that
wraps the JSON needs the rest."""

MAX_JSON_DIGITS: Final = 4300
"""Digits of an integer that is written: Python and the parser convert no more."""

_WRAPPED = b"[" * 73, b"]" * 73
"""JSON within so many lists is parsed only if it has at most `MAX_JSON_DEPTH` levels itself."""

_DIGITS = frozenset(b"0123456789")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[\]{}]")


def check_readable(encoded: bytes) -> None:
    """Raise `ValueError` for JSON that no reader could read again: nested too deeply, or with an integer too long."""
    if len(encoded) <= MAX_JSON_DEPTH:
        return
    # The number of brackets bounds the depth, and every run of too many digits covers one of these bytes: few values
    # are parsed.
    if encoded.count(b"{") + encoded.count(b"[") > MAX_JSON_DEPTH:
        before, after = _WRAPPED
        _parse(before + encoded + after)
    elif not _DIGITS.isdisjoint(encoded[MAX_JSON_DIGITS :: MAX_JSON_DIGITS + 1]):
        _parse(encoded)


def _parse(encoded: bytes) -> None:
    try:
        from_json(encoded)
    except ValueError as error:
        if "recursion" in str(error):
            raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from None
        if "number" in str(error):
            raise ValueError(f"an integer in it has more than {MAX_JSON_DIGITS} digits") from None
        raise


def is_deeper(encoded: bytes, limit: int) -> bool:
    """Return whether JSON has more than `limit` containers within each other."""
    depth = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", encoded)):
        depth += 1 if bracket in b"{[" else -1
        if depth > limit:
            return True
    return False
