"""Anthropic: tools of the Messages API, as the SDK's `ToolParam` has them.

Rules: https://platform.claude.com/docs/en/build-with-claude/structured-outputs and
https://platform.claude.com/docs/en/agents-and-tools/tool-use/strict-tool-use (read in November 2026). The API compiles
all strict tools of a request into one grammar, and refuses it past a size that is not published.
"""

from __future__ import annotations

import re
from typing import Any

from actionengine.agents.dialects.dialect import Definition, Dialect
from actionengine.agents.dialects.rules import ANNOTATIONS, Rules

MAX_STRICT_TOOLS = 20
MAX_STRICT_OPTIONAL = 24
MAX_STRICT_UNIONS = 16
"""Strict tools of a request; optional properties and unions in all of them together."""

_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def _shape(tool: Definition) -> dict[str, Any]:
    definition: dict[str, Any] = {"name": tool.name, "description": tool.text, "input_schema": tool.input_schema}
    if tool.is_strict:
        definition["strict"] = True
    elif tool.examples:
        definition["input_examples"] = list(tool.examples)
    return definition


ANTHROPIC = Dialect(
    "anthropic",
    Rules(annotations=ANNOTATIONS - {"title"}, root_unions=False, property_name=_PROPERTY),
    _shape,
    strict_rules=Rules(
        constraints=frozenset({"format", "minItems"}),
        formats=frozenset(
            {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
        ),
        annotations=frozenset({"description"}),
        max_min_items=1,
        references="none",
        open_objects=False,
        any_value=False,
        one_of=False,
        all_of=False,
        root_unions=False,
        type_lists=False,
        tuples=False,
        property_name=_PROPERTY,
    ),
)
