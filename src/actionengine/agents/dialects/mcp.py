"""The Model Context Protocol, specification of 2026-07-28: https://modelcontextprotocol.io/specification.

Schemas are JSON Schema 2020-12. The root of the input schema is an object, and so is a structured result.
"""

from __future__ import annotations

from typing import Any

from actionengine.agents.dialects.dialect import Definition, Dialect
from actionengine.agents.dialects.rules import Rules


def _shape(tool: Definition) -> dict[str, Any]:
    action = tool.action
    examples = {"examples": list(tool.examples)} if tool.examples else {}
    return {
        "name": tool.name,
        "title": action.title,
        "description": tool.text,
        "inputSchema": tool.input_schema | examples,
        "outputSchema": tool.output_schema,
        "annotations": {
            "title": action.title,
            "readOnlyHint": action.read_only,
            "destructiveHint": action.destructive and not action.read_only,
            # With a key as an argument, the same arguments have no further effect.
            "idempotentHint": action.read_only or action.idempotency == "required",
        },
    }


MCP = Dialect("mcp", Rules(root_unions=False), _shape, has_meta=True)
