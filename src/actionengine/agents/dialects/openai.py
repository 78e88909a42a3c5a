"""OpenAI: function tools of the Responses API, as the SDK's `FunctionToolParam` has them.

Limits: https://developers.openai.com/api/docs/guides/structured-outputs#supported-schemas (read in November 2026).
"""

from __future__ import annotations

from typing import Any

from actionengine.agents.dialects.dialect import Definition, Dialect
from actionengine.agents.dialects.rules import ANNOTATIONS, NUMBERS, Limits, Rules


def _shape(tool: Definition) -> dict[str, Any]:
    examples = {"examples": list(tool.examples)} if tool.examples and not tool.is_strict else {}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.text,
        "parameters": tool.input_schema | examples,
        "strict": tool.is_strict,
    }


OPENAI = Dialect("openai", Rules(annotations=ANNOTATIONS - {"title"}, root_unions=False), _shape)

OPENAI_STRICT = Dialect(
    "openai_strict",
    Rules(
        constraints=NUMBERS | {"pattern", "format", "minItems", "maxItems"},
        formats=frozenset(
            {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"},
        ),
        annotations=frozenset({"description"}),
        lookaround=False,
        references="recursive",
        open_objects=False,
        any_value=False,
        all_required=True,
        one_of=False,
        all_of=False,
        root_unions=False,
        tuples=False,
        limits=Limits(
            depth=10, properties=5_000, enum_values=1_000, text=120_000, long_enum=250, long_enum_text=15_000
        ),
    ),
    _shape,
    is_strict=True,
)
