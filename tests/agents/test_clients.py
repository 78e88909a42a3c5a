"""The providers' own packages take the definitions, and their schema helpers find nothing to change.

They are slow to import, so this is the only file that does, and in its tests: each worker collects them, one runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from pydantic import TypeAdapter

from actionengine import RequestContext, Tenant
from tests.agents.conftest import ToolsOf
from tests.agents.host import CLERK
from tests.agents.rules import nodes
from tests.agents.test_rules import schemas

STRICT = schemas("openai_strict")


@pytest.mark.parametrize("name", STRICT)
def test_openais_helpers_find_a_strict_schema(name: str) -> None:
    from agents.strict_schema import ensure_strict_json_schema
    from openai.lib._pydantic import _ensure_strict_json_schema

    mine = STRICT[name]
    theirs = deepcopy(mine)
    assert _ensure_strict_json_schema(theirs, path=(), root=theirs) == mine
    assert ensure_strict_json_schema(deepcopy(mine)) == mine


@pytest.mark.parametrize("name", STRICT)
def test_pydantic_ai_finds_a_strict_schema(name: str) -> None:
    from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer

    for strict in (None, True):
        transformer = OpenAIJsonSchemaTransformer(deepcopy(STRICT[name]), strict=strict)
        assert transformer.walk() == STRICT[name]
        assert transformer.is_strict_compatible


@pytest.mark.parametrize("name", schemas("anthropic_strict"))
def test_anthropics_helper_finds_a_strict_schema(name: str) -> None:
    from anthropic import transform_schema

    mine = schemas("anthropic_strict")[name]
    theirs = transform_schema(deepcopy(mine))
    assert theirs == _without_types_of_choices(mine)


def _without_types_of_choices(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as the helper writes it: without a type beside an enum."""
    plain = deepcopy(schema)
    for _, node in nodes(plain):
        if node.keys() & {"enum", "const"}:
            node.pop("type", None)
    return plain


@pytest.mark.parametrize("name", schemas("gemini"))
def test_pydantic_ai_finds_a_schema_for_gemini(name: str) -> None:
    from pydantic_ai.profiles.google import GoogleOpenAPISchemaTransformer

    mine = schemas("gemini")[name]
    assert GoogleOpenAPISchemaTransformer(deepcopy(mine)).walk() == mine


def test_the_sdks_types_take_the_definitions(tools_of: ToolsOf, acme: Tenant) -> None:
    from anthropic.types import ToolParam
    from openai.types.responses import FunctionToolParam
    from openai.types.shared_params import FunctionDefinition

    context = RequestContext(acme, CLERK)
    for dialect in ("openai", "openai_strict"):
        for tool in tools_of(dialect).list(context):
            assert TypeAdapter(FunctionToolParam).validate_python(tool) == tool
            function = {name: value for name, value in tool.items() if name != "type"}
            assert TypeAdapter(FunctionDefinition).validate_python(function) == function
    for tool in tools_of("anthropic").list(context):
        TypeAdapter(ToolParam).validate_python(tool, extra="forbid")


def test_an_agent_of_pydantic_ai_calls_tools(tools_of: ToolsOf, acme: Tenant) -> None:
    from pydantic_ai import Agent, Tool
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    tools, context = tools_of("openai"), RequestContext(acme, CLERK)
    calls: Iterator[ToolCallPart | TextPart] = iter(
        [
            ToolCallPart("payments__search", {"limits": 1}),
            ToolCallPart("payments__search", {"limit": 1}),
            TextPart("done"),
        ]
    )
    seen: list[str] = []

    async def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        assert "payments__search" in [tool.name for tool in info.function_tools]
        seen.extend(str(part.content) for part in messages[-1].parts if isinstance(part, ToolReturnPart))
        return ModelResponse([next(calls)])

    def offered(definition: dict[str, Any]) -> Tool[None]:
        async def run(**arguments: Any) -> str:
            return (await tools.call_async(definition["name"], arguments, context)).text

        return Tool.from_schema(run, definition["name"], definition["description"], definition["parameters"])

    agent = Agent(FunctionModel(script), tools=[*map(offered, tools.list(context))])
    assert asyncio.run(agent.run("Search")).output == "done"
    assert [text.splitlines()[0] for text in seen] == [
        "The arguments of payments__search are not valid. Nothing has been done.",
        '{"items":["refund 0"],"next":"cursor-7"}',
    ]
