"""The dialects of tool definitions: the rules of each, and its shape."""

from __future__ import annotations

from collections.abc import Mapping

from actionengine.agents.dialects.anthropic import ANTHROPIC
from actionengine.agents.dialects.dialect import Dialect
from actionengine.agents.dialects.gemini import GEMINI
from actionengine.agents.dialects.mcp import MCP
from actionengine.agents.dialects.openai import OPENAI, OPENAI_STRICT

DIALECTS: Mapping[str, Dialect] = {each.name: each for each in (MCP, OPENAI, OPENAI_STRICT, ANTHROPIC, GEMINI)}
