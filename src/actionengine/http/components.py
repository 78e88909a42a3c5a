"""JSON Schemas of many actions as the components of one document."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic_core import to_json

from actionengine.catalogue.schemas import LISTS, MAPS, SCHEMAS

Json = dict[str, Any]

_DEFINITIONS: Final = "#/$defs/"
_COMPONENTS: Final = "#/components/schemas/"
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9._-]")
"""Characters that OpenAPI refuses in the name of a component."""


class Components:
    """Collects schemas. Definitions of one name become one component where they are equal, with all that they refer
    to; others get the name of the schema in front."""

    def __init__(self) -> None:
        self.schemas: dict[str, Json] = {}
        self._names: dict[tuple[str, bytes], str] = {}

    def add(self, name: str, schema: Json) -> Json:
        """Add a schema with its definitions, and return the reference to it."""
        own = self._free(name)
        self.schemas[own] = {}
        definitions: Json = schema.get("$defs", {})
        names = {each: self._place(each, own, definitions) for each in definitions}
        moved = _Moved(own, {key: name for key, (name, _) in names.items()})
        for each, (component, is_new) in names.items():
            if is_new:
                self.schemas[component] = moved.schema(definitions[each])
        self.schemas[own] = moved.schema({key: value for key, value in schema.items() if key != "$defs"})
        return {"$ref": _COMPONENTS + own}

    def resolved(self, schema: Json) -> Json:
        """Return the component that a schema refers to, or the schema itself."""
        for _ in range(len(self.schemas)):
            reference = schema.get("$ref", "")
            if not reference.startswith(_COMPONENTS) or reference.removeprefix(_COMPONENTS) not in self.schemas:
                break
            schema = self.schemas[reference.removeprefix(_COMPONENTS)]
        return schema

    def _place(self, name: str, owner: str, definitions: Json) -> tuple[str, bool]:
        """Return the name of the component for a definition, and whether it is new."""
        whole = {each: definitions[each] for each in sorted(_reached(name, definitions))}
        key = (name, to_json(whole))
        if key in self._names:
            return self._names[key], False
        found = self._names[key] = self._free(name if _clean(name) not in self.schemas else f"{owner}.{name}")
        self.schemas[found] = {}
        return found, True

    def _free(self, name: str) -> str:
        clean = _clean(name)
        free, number = clean, 2
        while free in self.schemas:
            free, number = f"{clean}-{number}", number + 1
        return free


class _Moved:
    """Rewrites the references of one schema."""

    def __init__(self, owner: str, names: dict[str, str]) -> None:
        self._owner = owner
        self._names = names

    def schema(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        return {key: self._part(key, value) for key, value in schema.items()}

    def _part(self, key: str, value: Any) -> Any:
        if key == "$ref":
            return self._reference(value)
        if key in MAPS:
            return {name: self.schema(item) for name, item in value.items()}
        if key in LISTS:
            return [self.schema(item) for item in value]
        if key in SCHEMAS:
            return self.schema(value)
        if key == "discriminator" and isinstance(value, dict) and "mapping" in value:
            return {**value, "mapping": {name: self._reference(to) for name, to in value["mapping"].items()}}
        return value

    def _reference(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return reference
        name, slash, rest = reference.removeprefix(_DEFINITIONS).partition("/")
        name = _unescaped(name)
        if reference.startswith(_DEFINITIONS) and name in self._names:
            return f"{_COMPONENTS}{self._names[name]}{slash}{rest}"
        return f"{_COMPONENTS}{self._owner}{reference.removeprefix('#')}"


def _reached(name: str, definitions: Json) -> set[str]:
    """Return a definition and those that it refers to, at any depth."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each in definitions and each not in reached:
            reached.add(each)
            waiting += _references(definitions[each])
    return reached


def _references(schema: Any) -> list[str]:
    """Return the names of the definitions in a schema, and perhaps of more: values may look like references."""
    found: list[str] = []
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str) and reference.startswith(_DEFINITIONS):
                found.append(_unescaped(reference.removeprefix(_DEFINITIONS).partition("/")[0]))
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return found


def _unescaped(pointer: str) -> str:
    return pointer.replace("~1", "/").replace("~0", "~")


def _clean(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)
