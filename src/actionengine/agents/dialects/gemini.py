"""Gemini: function declarations, with `parameters` in the subset of OpenAPI 3.0 that every endpoint takes.

Schema: https://ai.google.dev/api/caching#Schema. Names of functions and of parameters:
https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1beta1/FunctionDeclaration (read in November
2026). `parametersJsonSchema` is not used: the Live API lacks it, and objects with any keys arrive empty.
"""

from __future__ import annotations

import re
from typing import Any

from actionengine.agents.dialects.dialect import Definition, Dialect
from actionengine.agents.dialects.rules import Rules


def _shape(tool: Definition) -> dict[str, Any]:
    definition: dict[str, Any] = {"name": tool.name, "description": tool.text}
    if tool.input_schema.get("properties"):
        definition["parameters"] = tool.input_schema
    return definition


GEMINI = Dialect(
    "gemini",
    Rules(
        constraints=frozenset({"minimum", "maximum", "minLength", "maxLength", "pattern"})
        | {"minItems", "maxItems", "minProperties", "maxProperties"},
        annotations=frozenset({"description"}),
        references="none",
        open_objects=False,
        closes_objects=False,
        any_value=False,
        one_of=False,
        all_of=False,
        root_unions=False,
        type_lists=False,
        null_type=False,
        const=False,
        text_enums_only=True,
        tuples=False,
        empty_properties=False,
        property_name=re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}"),
    ),
    _shape,
    tool_name=re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}"),
)
