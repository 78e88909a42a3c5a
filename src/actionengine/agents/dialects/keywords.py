"""The keywords of a schema that a dialect takes; what it lacks is said in the description."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actionengine.agents.dialects.rules import ANNOTATIONS, CONSTRAINTS, Rules
from actionengine.agents.dialects.vocabulary import STRUCTURE, with_items, with_notes

_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")
_MAX_CHOICES = 20
"""Values of an enum that a description lists."""


class Keywords:
    """The annotations and constraints of a dialect, by its rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def kept(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the annotations and constraints of a schema that the dialect takes. The description has the
        constraints that it lacks, and a default."""
        kept, lost = {}, {}
        for key, value in schema.items():
            if key in ANNOTATIONS:
                if key in self._rules.annotations:
                    kept[key] = value
                elif key == "default" and value is not None:
                    lost[key] = value
            elif key in CONSTRAINTS:
                (kept if self._takes(key, value) else lost)[key] = value
            elif self._rules.references == "kept" and key not in STRUCTURE and key != "discriminator":
                kept[key] = with_items(value)
        return with_notes(kept, lost)

    def takes_enum(self, values: Sequence[Any], kinds: frozenset[str]) -> bool:
        """Return whether the dialect takes an enum of these values, which are of these JSON types."""
        if self._rules.text_enums_only and kinds != {"string"}:
            return False
        limits = self._rules.limits
        if limits is None:
            return True
        text = sum(len(each) for each in values if isinstance(each, str))
        return len(values) <= limits.long_enum or (len(values) <= limits.enum_values and text <= limits.long_enum_text)

    def _takes(self, key: str, value: Any) -> bool:
        rules = self._rules
        if key not in rules.constraints:
            return False
        if key == "format":
            return rules.formats is None or value in rules.formats
        if key == "minItems":
            return rules.max_min_items is None or value <= rules.max_min_items
        return key != "pattern" or rules.lookaround or not any(token in value for token in _LOOKAROUND)


def listed(values: Sequence[Any]) -> str:
    """Return the first values of an enum in words."""
    shown = ", ".join(json.dumps(each, ensure_ascii=False) for each in values[:_MAX_CHOICES])
    return f"{shown}, and {len(values) - _MAX_CHOICES} more" if len(values) > _MAX_CHOICES else shown
