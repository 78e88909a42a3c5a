"""References from a definition into what a run knows: `${input.amount}`, `${steps.assess.score}`.

A text that is one reference gives its value as it is; references within a text give their text. `$${` is a plain `${`.
A path names members by dots; a member of a list is named by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from actionengine.errors import ErrorCode, failing

Path = tuple[str, ...]

ROOTS = ("input", "steps", "run")
"""What a path begins with: the run's input, the outputs of its steps by their names, and the run itself (`id`,
`workflow`, `started_by`)."""

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}")


def parse_path(text: str) -> Path:
    """The members that a path names. Raises `ValueError` for one that names nothing there can be."""
    path = tuple(text.strip().split("."))
    if not all(path):
        raise ValueError(f"{text!r} is no path: members are joined by dots, as in input.amount")
    if path[0] not in ROOTS:
        raise ValueError(f"{text!r} is no path: it begins with {', '.join(ROOTS)}")
    if len(path) == 1:
        raise ValueError(f"{text!r} names all of {path[0]}: say which member of it")
    return path


def references(value: Any) -> Iterator[Path]:
    """The paths that a value refers to, wherever in it. Raises `ValueError` for one that is none."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            if match[1] is None:
                yield parse_path(match[2])
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from references(each)


def filled(value: Any, known: Mapping[str, Any]) -> Any:
    """A value with its references filled in. Raises `ActionException(unprocessable)` for one to what is not there."""
    if isinstance(value, str):
        return _filled_text(value, known)
    if isinstance(value, Mapping):
        return {name: filled(each, known) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled(each, known) for each in value]
    return value


def look_up(path: Path, known: Mapping[str, Any]) -> Any:
    """What a path names. Raises `ActionException(unprocessable)` where it is not there."""
    found: Any = known
    for number, name in enumerate(path):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise missing(path, number)
    return found


def missing(path: Path, number: int) -> Exception:
    """The answer for a path of which one member is not there."""
    whole, where = ".".join(path), ".".join(path[:number])
    return failing(
        ErrorCode.UNPROCESSABLE,
        f"there is no {whole}: {where or 'the run'} has no {path[number]!r}",
        path=whole,
        missing=path[number],
    )


def _filled_text(text: str, known: Mapping[str, Any]) -> Any:
    if "$" not in text:
        return text
    whole = _REFERENCE.fullmatch(text)
    if whole is not None and whole[1] is None:
        return look_up(parse_path(whole[2]), known)
    return _REFERENCE.sub(lambda match: "${" if match[1] else _told(look_up(parse_path(match[2]), known)), text)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
