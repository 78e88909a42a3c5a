"""Reading of arguments: from the form in which a dialect's schema asks for them to the payload of the action.

A reader returns the value as the action's own schema has it, and notes each problem that validation would not see. It
leaves a value of the wrong type as it is: validation refuses that with a better reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from actionengine.text.names import hint, nearest_of, shortened

_NOT_JSON = 'it is not JSON text: write "abc" with its quotes, 5, or {"a": 1}'
UNKNOWN = "extra_forbidden"
"""The type of the problem of an unknown property, as Pydantic has it."""

MAX_PROBLEMS = 20
"""Problems that one answer lists."""


class Trail:
    """The place in the arguments that is being read, and the problems found so far."""

    __slots__ = ("path", "problems")

    def __init__(self) -> None:
        self.path: list[str] = []
        self.problems: list[dict[str, str]] = []

    def report(self, reason: str, type: str) -> None:
        """Note a problem with the value at the present place."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"path": ".".join(self.path), "reason": reason, "type": type})

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
        """Return how many required properties are missing and how many constants differ."""
        missing = sum(name not in value for name in self._required)
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
            return self._text(value)
        readers = [branch.reader for branch in self._branches if kind in branch.kinds]
        if len(readers) == 1:
            return value if readers[0] is None else readers[0](value, trail)
        best: tuple[tuple[int, int], Any, list[dict[str, str]]] | None = None
        for reader in readers:
            attempt = Trail()
            attempt.path = trail.path
            found = value if reader is None else reader(value, attempt)
            misfit = getattr(reader, "misfit", None)
            unknown = sum(problem["type"] == UNKNOWN for problem in attempt.problems)
            score = unknown + (misfit(value) if misfit is not None else 0), len(attempt.problems)
            if best is None or score < best[0]:
                best = score, found, attempt.problems
            if score == (0, 0):
                break
        if best is None:
            return value
        trail.problems += best[2][: MAX_PROBLEMS - len(trail.problems)]
        return best[1]

    def _text(self, value: str) -> Any:
        """Return a text, or the object or the list that it stands for where an alternative is JSON text."""
        if any(branch.reader is read_json_text for branch in self._branches):
            attempt = Trail()
            found = read_json_text(value, attempt)
            if type(found) in (dict, list):
                return found
        return value


_KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
