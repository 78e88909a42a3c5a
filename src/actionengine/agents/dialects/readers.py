"""Reading of arguments: from the form in which a dialect's schema asks for them to the payload of the action.

A reader returns the value as the action's own schema has it, and notes each problem that validation would not see. It
leaves a value of the wrong type as it is: validation refuses that with a better reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from actionengine.errors import storable_text
from actionengine.text.names import hint, nearest_of, shortened

_NOT_JSON = 'it is not JSON text: write "abc" with its quotes, 5, or {"a": 1}'
UNKNOWN = "extra_forbidden"
"""The type of the problem of an unknown property, as Pydantic has it."""

MAX_PROBLEMS = 20
"""Problems that one answer lists."""

_MAX_ATTEMPTS = 5_000
"""Alternatives of unions that are tried for one call. Past them, the first that fits at its top is taken."""


class Trail:
    """The place in the arguments that is being read, and the problems found so far."""

    __slots__ = ("_attempts", "path", "problems")

    def __init__(self) -> None:
        self.path: list[str] = []
        self.problems: list[dict[str, str]] = []
        self._attempts = [_MAX_ATTEMPTS]

    def branched(self) -> Trail:
        """Return a trail with problems of its own, for an attempt at the present place."""
        attempt = Trail()
        attempt.path, attempt._attempts = self.path, self._attempts
        return attempt

    def may_try(self, count: int) -> bool:
        """Return whether so many alternatives may be tried. Those of a recursive union inside each other are many."""
        self._attempts[0] -= count
        return self._attempts[0] >= 0

    def report(self, reason: str, type: str) -> None:
        """Note a problem with the value at the present place."""
        if len(self.problems) < MAX_PROBLEMS:
            path = storable_text(".".join(self.path))
            self.problems.append({"path": path, "reason": storable_text(reason), "type": type})

    def read(self, reader: Reader | None, step: str, value: Any) -> Any:
        """Return a part of the value at the present place, read."""
        if reader is None:
            return value
        self.path.append(step)
        try:
            return reader(value, self)
        finally:
            self.path.pop()


Reader = Callable[[Any, Trail], Any]


class Property(NamedTuple):
    """A property as the action knows it.

    `leaves_out_null` says that null stands for a property that was left out.
    """

    name: str
    reader: Reader | None = None
    leaves_out_null: bool = False


class ObjectReader:
    """Reads an object with named properties. `rest` reads the others, if there may be others."""

    def __init__(
        self,
        properties: Mapping[str, Property],
        required: frozenset[str] = frozenset(),
        constants: Mapping[str, Any] | None = None,
        rest: Reader | None = None,
        is_closed: bool = True,
    ) -> None:
        self._properties = properties
        self._required = required
        self._constants = constants or {}
        self._rest = rest
        self._is_closed = is_closed
        self.is_deep = rest is not None or any(each.reader for each in properties.values())
        """True if it reads the parts of its properties, too."""
        changes = any(each.reader or each.leaves_out_null or each.name != name for name, each in properties.items())
        self.plain_names = None if changes or rest is not None else frozenset(properties)
        """The names of all properties, if no part of an object with these is read otherwise."""

    def __call__(self, value: Any, trail: Trail) -> Any:
        """Return the object under the action's names."""
        if type(value) is not dict:
            return value
        if self.plain_names is not None and self.plain_names.issuperset(value):
            return value
        found: dict[Any, Any] = {}
        for key, item in value.items():
            known = self._properties.get(key)
            if known is None:
                found[key] = self._unknown(key, item, trail)
            elif item is not None or not known.leaves_out_null:
                found[known.name] = trail.read(known.reader, key, item)
        return found

    def _unknown(self, key: Any, item: Any, trail: Trail) -> Any:
        if not self._is_closed or type(key) is not str:
            return trail.read(self._rest, str(key), item)
        if len(trail.problems) >= MAX_PROBLEMS:
            return item
        trail.path.append(shortened(key))
        nearest = nearest_of(key, self._properties)
        names = "" if nearest else f": the fields are {', '.join(self._properties)}" if self._properties else ""
        trail.report(f"there is no such field{hint(nearest)}{names}", UNKNOWN)
        trail.path.pop()
        return item

    def misfit(self, value: Any) -> int:
        """Return how many properties are missing or unknown, and how many constants differ."""
        missing = sum(name not in value for name in self._required)
        if self._is_closed:
            missing += sum(name not in self._properties for name in value)
        return missing + sum(1 for name, each in self._constants.items() if value.get(name, each) != each)


class ListReader:
    """Reads the items of a list: the first ones by position, the others alike."""

    def __init__(self, first: Sequence[Reader | None], rest: Reader | None) -> None:
        self._first = first
        self._rest = rest

    def __call__(self, value: Any, trail: Trail) -> Any:
        """Return the list with its items read."""
        if type(value) is not list:
            return value
        first = len(self._first)
        return [
            trail.read(self._first[index] if index < first else self._rest, str(index), item)
            for index, item in enumerate(value)
        ]


class MapReader:
    """Reads the values of an object with any keys."""

    def __init__(self, values: Reader) -> None:
        self._values = values

    def __call__(self, value: Any, trail: Trail) -> Any:
        """Return the object with its values read."""
        if type(value) is not dict:
            return value
        return {key: trail.read(self._values, str(key), item) for key, item in value.items()}


class PairsReader:
    """Reads a list of `{"key", "value"}` as the object that it stands for. The last value of a key counts."""

    def __init__(self, values: Reader | None) -> None:
        self._values = values

    def __call__(self, value: Any, trail: Trail) -> Any:
        """Return the object. An object is taken as it is."""
        if type(value) is dict and self._values is not None:
            return MapReader(self._values)(value, trail)
        if type(value) is not list or self.misfit(value):
            return value
        return {item["key"]: trail.read(self._values, item["key"], item["value"]) for item in value}

    def misfit(self, value: Any) -> int:
        """Return how many items are not pairs."""
        return sum(
            not (type(item) is dict and item.keys() == {"key", "value"} and type(item["key"]) is str) for item in value
        )


def read_json_text(value: Any, trail: Trail) -> Any:
    """Return the value of a JSON text. A value that is no text is taken as it is."""
    if type(value) is not str:
        return value
    try:
        return from_json(value)
    except (ValueError, RecursionError):
        trail.report(_NOT_JSON, "json_invalid")
        return None


class Branch(NamedTuple):
    """One of the alternatives of a union: the JSON types that it takes in a dialect, and its reader."""

    kinds: frozenset[str]
    reader: Reader | None


class UnionReader:
    """Reads a value by the alternative that fits it best.

    `chosen_by` names a property whose value decides, with the alternative for each value.
    """

    def __init__(self, branches: Sequence[Branch], chosen_by: str | None, choices: Mapping[str, Reader | None]) -> None:
        self._branches = branches
        self._chosen_by = chosen_by
        self._choices = choices

    def __call__(self, value: Any, trail: Trail) -> Any:
        """Return the value as its alternative reads it."""
        kind = _KINDS.get(type(value))
        if self._chosen_by is not None and kind == "object":
            choice = value.get(self._chosen_by)
            if type(choice) is str and choice in self._choices:
                reader = self._choices[choice]
                return value if reader is None else reader(value, trail)
        if kind == "string":
            return self._text(value, trail)
        readers = [branch.reader for branch in self._branches if kind in branch.kinds]
        if len(readers) > 1:
            misfits = [_misfit(reader, value) for reader in readers]
            least = min(misfits)
            readers = [reader for reader, misfit in zip(readers, misfits, strict=True) if misfit == least]
        if len(readers) == 1 or (readers and not trail.may_try(len(readers))):
            return value if readers[0] is None else readers[0](value, trail)
        return self._tried(readers, value, trail)

    def _tried(self, readers: Sequence[Reader | None], value: Any, trail: Trail) -> Any:
        """Return the value as the reader has it that finds the least to refuse."""
        best: tuple[tuple[int, int], Any, list[dict[str, str]]] | None = None
        for reader in readers:
            attempt = trail.branched()
            found = value if reader is None else reader(value, attempt)
            score = sum(problem["type"] == UNKNOWN for problem in attempt.problems), len(attempt.problems)
            if best is None or score < best[0]:
                best = score, found, attempt.problems
            if score == (0, 0):
                break
        if best is None:
            return value
        trail.problems += best[2][: MAX_PROBLEMS - len(trail.problems)]
        return best[1]

    def _text(self, value: str, trail: Trail) -> Any:
        """Return a text, or what it stands for where an alternative is JSON text; beside texts, only an object or a
        list is told from them."""
        readers = [branch.reader for branch in self._branches if "string" in branch.kinds]
        if read_json_text not in readers:
            return value
        if len(readers) == 1:
            return read_json_text(value, trail)
        found = read_json_text(value, Trail())
        return found if type(found) in (dict, list) else value


def _misfit(reader: Reader | None, value: Any) -> int:
    """Return how far a value is from an alternative, by what can be seen without reading its parts."""
    misfit = getattr(reader, "misfit", None)
    return 0 if misfit is None else int(misfit(value))


_KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
