"""Limits of strict tools where a provider compiles all of a request into one grammar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from actionengine.agents.dialects.anthropic import MAX_STRICT_OPTIONAL, MAX_STRICT_TOOLS, MAX_STRICT_UNIONS
from actionengine.errors import ConfigurationError


def check_strict_tools(schemas: Iterable[dict[str, Any]]) -> None:
    """Raise `ConfigurationError` if strict tools with these schemas exceed the published limits of one request."""
    nodes = [list(_nodes(schema)) for schema in schemas]
    optional = sum(len(node["properties"].keys() - set(node.get("required", ()))) for each in nodes for node in each)
    unions = sum("anyOf" in item for each in nodes for node in each for item in node["properties"].values())
    for what, count, most in (
        ("tools", len(nodes), MAX_STRICT_TOOLS),
        ("optional fields", optional, MAX_STRICT_OPTIONAL),
        ("fields of several types", unions, MAX_STRICT_UNIONS),
    ):
        if count > most:
            raise ConfigurationError(
                f"strict=[…] makes {count} strict {what}, and a request takes at most {most}: list fewer actions, "
                f"those whose arguments a model gets wrong"
            )


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield each object with properties in a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for part in schema.values():
            yield from _nodes(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _nodes(part)
