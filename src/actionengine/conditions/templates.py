"""References from a definition to the data of a run: `${input.amount}`, `${steps.assess.score}`.

A text that consists of one reference is replaced by its value; a reference within a text is replaced by text. `$${`
stands for a plain `${`. Dots separate the members of a path, which are looked up as written and in Unicode's form NFC;
a member of a list is named by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.text.names import nfc

Path = tuple[str, ...]

ROOTS = ("input", "steps", "run")
"""First members of a path: the run's input, the outputs of its steps by name, and the run itself (`id`, `workflow`,
`started_by`)."""

PATH_PATTERN = rf"^\s*({'|'.join(ROOTS)})(\.[^.]+)*\.[^.]*[^.\s][^.]*$"
"""The regular expression of a path that `parse_path` reads."""

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}")

MAX_RENDERED_BYTES = 1024 * 1024
"""Bytes of JSON that the references of one value may yield together: a few can repeat a long input."""

_MAX_DIGITS = 9
"""Digits of the number of a list's member."""


def parse_path(text: str) -> Path:
    """Return the members of a path. Raises `ValueError` for a text that is not a path."""
    path = tuple(text.strip().split("."))
    if not all(path):
        raise ValueError(f"{text!r} is not a path: members are joined by dots, as in input.amount")
    if path[0] not in ROOTS:
        raise ValueError(f"{text!r} is not a path: it begins with {', '.join(ROOTS)}")
    if len(path) == 1:
        raise ValueError(f"{text!r} names all of {path[0]}: say which member of it")
    return path


def references(value: Any) -> Iterator[Path]:
    """Yield the paths of all references in a value. Raises `ValueError` for an invalid one."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            if match[1] is None:
                yield parse_path(match[2])
        if "${" in _REFERENCE.sub(" ", value):
            raise ValueError("a reference begins with ${ and has no end: close it with }, or write $${ for a plain ${")
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from references(each)


def render(value: Any, scope: Mapping[str, Any]) -> Any:
    """Return a value with its references replaced. Raises `ActionError(unprocessable)` for a reference to a missing
    member, and if the references yield more than `MAX_RENDERED_BYTES`."""
    return Renderer(scope).render(value)


class Renderer:
    """Renders values, whose references may yield `MAX_RENDERED_BYTES` together."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        self._left = MAX_RENDERED_BYTES

    def render(self, value: Any) -> Any:
        """Return a value with its references replaced, as the function `render` does."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {name: self.render(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.render(each) for each in value]
        return value

    def _text(self, text: str) -> Any:
        if "$" not in text:
            return text
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and whole[1] is None:
            return self._look_up(whole[2])
        return _REFERENCE.sub(lambda match: "${" if match[1] else _to_text(self._look_up(match[2])), text)

    def _look_up(self, reference: str) -> Any:
        path = parse_path(reference)
        found = look_up(path, self._scope)
        self._left -= len(found) if isinstance(found, str) else len(to_json(found))
        if self._left < 0:
            limit = f"{MAX_RENDERED_BYTES >> 10} KB"
            message = f"the references yield more than {limit}, at {'.'.join(path)}: refer to smaller values"
            raise ActionError(ErrorCode.UNPROCESSABLE, message, {"path": ".".join(path)})
        return found


def look_up(path: Path, scope: Mapping[str, Any]) -> Any:
    """Return the value at a path. Raises `ActionError(unprocessable)` if it is missing."""
    found: Any = scope
    for number, name in enumerate(path):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, Mapping) and nfc(name) in found:
            found = found[nfc(name)]
        elif isinstance(found, list) and (member := _number(name)) is not None and member < len(found):
            found = found[member]
        else:
            raise missing_value_error(path, number)
    return found


def missing_value_error(path: Path, number: int) -> Exception:
    """Return the error for a path whose member `number` is missing."""
    whole, where = ".".join(path), ".".join(path[:number])
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"there is no {whole}: {where or 'the run'} has no {path[number]!r}",
        {"path": whole, "missing": path[number]},
    )


def _number(name: str) -> int | None:
    return int(name) if name.isdecimal() and len(name) <= _MAX_DIGITS else None


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
