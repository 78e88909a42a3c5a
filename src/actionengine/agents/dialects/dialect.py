"""A dialect: the rules of its schemas, and the shape of its tool definitions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from actionengine.agents.dialects.rules import Rules
from actionengine.catalogue.descriptions import ActionDescription

DialectName = Literal["mcp", "openai", "openai_strict", "anthropic", "gemini"]


@dataclass(frozen=True, slots=True)
class Definition:
    """The parts of a tool's definition, before a dialect gives them its shape.

    `text` is the description for the model, `output_schema` the schema of a structured result. `examples` are
    arguments.
    """

    name: str
    text: str
    action: ActionDescription
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: tuple[dict[str, Any], ...] = ()
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect of tool definitions.

    `strict_rules` are the rules of the tools that the host wants strict, where strictness is chosen for each tool.
    """

    name: DialectName
    rules: Rules
    shape: Callable[[Definition], dict[str, Any]]
    is_strict: bool = False
    """True if all its tools are strict."""
    strict_rules: Rules | None = None
    tool_name: re.Pattern[str] = re.compile(r"[a-zA-Z0-9_-]{1,64}")
    has_meta: bool = False
    """True if a call can carry an idempotency key beside the arguments (`_meta`)."""
