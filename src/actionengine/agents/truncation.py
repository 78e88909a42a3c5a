"""Cutting of JSON values to a size: lists end early, texts end in an ellipsis, and the structure remains."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

_ELLIPSIS = "…"
_SEPARATORS = 4
"""Bytes of punctuation for each member, at most: quotes are those of its JSON."""


def truncated(value: Any, max_bytes: int) -> Any:
    """Return a JSON value of at most `max_bytes` as JSON. It consists of parts of the given one.

    Small members of an object stay whole, so that the cursor of a page survives its items.
    """
    size = len(to_json(value))
    if size <= max_bytes:
        return value
    if isinstance(value, str):
        return _cut_text(value, max_bytes)
    if isinstance(value, list):
        return _cut_list(value, max_bytes)
    if isinstance(value, dict):
        return _cut_object(value, max_bytes)
    return None


def _cut_text(value: str, max_bytes: int) -> str:
    encoded = value.encode()[: max(max_bytes - 2 - len(_ELLIPSIS.encode()), 0)]
    text = encoded.decode(errors="ignore")
    # Characters that JSON escapes take more bytes than in the text.
    while text and len(to_json(text + _ELLIPSIS)) > max_bytes:
        text = text[: len(text) * 3 // 4]
    return text + _ELLIPSIS


def _cut_list(value: list[Any], max_bytes: int) -> list[Any]:
    kept: list[Any] = []
    left = max_bytes - 2
    for item in value:
        size = len(to_json(item)) + 1
        if size > left:
            # One large item is better than none.
            if not kept and left > _SEPARATORS:
                kept.append(truncated(item, left - 1))
            break
        kept.append(item)
        left -= size
    return kept


def _cut_object(value: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    sizes = {key: len(to_json(item)) for key, item in value.items()}
    left, waiting = max_bytes - 2, len(value)
    kept: dict[str, Any] = {}
    for key in sorted(sizes, key=sizes.__getitem__):
        overhead = len(to_json(key)) + 2
        share = left // waiting - overhead
        waiting -= 1
        if share < _SEPARATORS:
            continue
        kept[key] = truncated(value[key], share)
        left -= overhead + min(sizes[key], share)
    return {key: kept[key] for key in value if key in kept}
