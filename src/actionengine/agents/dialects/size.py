"""The size of a tool's schema, in the measures that providers limit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from actionengine.agents.dialects.rules import Limits


@dataclass(slots=True)
class Size:
    """The measures of a schema; `Limits` describes them."""

    depth: int = 0
    properties: int = 0
    enum_values: int = 0
    text: int = 0
    long_enum_text: int = 0

    @staticmethod
    def of(schema: dict[str, Any], long_enum: int) -> Size:
        """Return the size of a schema. A reference adds no depth; the definitions are measured once."""
        size = Size()
        size._add(schema, 1, long_enum)
        return size

    def excess(self, limits: Limits) -> str | None:
        """Return the measure that is too large, with its limit; None if all fit."""
        for each in fields(self):
            most: int = getattr(limits, each.name)
            if (value := getattr(self, each.name)) > most:
                return f"its schema has {each.name.replace('_', ' ')} of {value}; at most {most} is allowed"
        return None

    def _add(self, schema: Any, depth: int, long_enum: int) -> None:
        if not isinstance(schema, dict):
            return
        for name, definition in schema.get("$defs", {}).items():
            self.text += len(name)
            self._add(definition, 1, long_enum)
        choices = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
        characters = sum(len(each) for each in choices if isinstance(each, str))
        self.enum_values += len(choices)
        self.text += characters
        if len(choices) > long_enum:
            self.long_enum_text = max(self.long_enum_text, characters)
        inner = depth
        if "properties" in schema:
            self.depth = max(self.depth, depth)
            self.properties += len(schema["properties"])
            self.text += sum(map(len, schema["properties"]))
            inner = depth + 1
        parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("prefixItems", ())]
        for part in (*parts, schema.get("items"), schema.get("additionalProperties")):
            self._add(part, inner, long_enum)
