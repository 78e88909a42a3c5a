"""Definitions of tools: their names, the tools of each actor, and what is refused where `Tools` is made."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel, create_model
from returns.result import Success

from actionengine import (
    ActionError,
    Actor,
    ConfigurationError,
    Engine,
    InMemoryStorage,
    RequestContext,
    Tenant,
    Tools,
    create_action,
    create_engine,
    create_service,
)
from tests.agents.conftest import ToolsOf
from tests.agents.host import CLERK, GUEST, MANAGER

DIALECTS = ["mcp", "openai", "openai_strict", "anthropic", "gemini"]


def engine_with(*names: str, validation: Any = None, **options: Any) -> Engine:
    """Return an engine with an action for each `service.action`."""
    services: dict[str, list[Any]] = {}
    for name in names:
        service, _, action = name.partition(".")
        made = create_action(
            name=action, description="Do it", handler=lambda data: Success(data), validation=validation, **options
        )
        services.setdefault(service, []).append(made)
    return create_engine(
        services=[create_service(name=name, description="", actions=actions) for name, actions in services.items()]
    )


def names(tools: Tools, actor: Actor | None, tenant: Tenant) -> list[str]:
    return [tool["name"] for tool in tools.list(RequestContext(tenant, actor))]


# The tools of an actor


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_actor_sees_its_own_tools(tools_of: ToolsOf, acme: Tenant, dialect: str) -> None:
    tools = tools_of(dialect, ("payments",))
    assert names(tools, GUEST, acme) == ["payments__search"]
    assert names(tools, CLERK, acme) == [
        "payments__refund",
        "payments__note",
        "payments__search",
        "payments__keys",
        "payments__fail",
    ]
    assert names(tools, MANAGER, acme)[-1] == "payments__close"
    assert names(tools, None, acme) == []


def test_an_agent_sees_no_more_than_its_principal(tools_of: ToolsOf, acme: Tenant) -> None:
    agent = Actor.ai("bot", ["clerk"], on_behalf_of=Actor.human("gus", ["guest"]))
    assert names(tools_of("openai", ("payments",)), agent, acme) == ["payments__search"]


def test_definitions_are_copies(tools_of: ToolsOf, acme: Tenant) -> None:
    context = RequestContext(acme, GUEST)
    first = tools_of("openai", ("payments",)).list(context)
    first[0]["parameters"]["properties"].clear()
    assert tools_of("openai", ("payments",)).list(context)[0]["parameters"]["properties"]


def test_a_list_without_a_tenant_raises(tools_of: ToolsOf) -> None:
    with pytest.raises(ActionError, match="no tenant"):
        tools_of("openai").list(RequestContext(None, CLERK))


def test_a_definition_has_the_shape_of_its_dialect(tools_of: ToolsOf, acme: Tenant) -> None:
    found = {name: tools_of(name, ("payments",)).list(RequestContext(acme, CLERK)) for name in DIALECTS}
    shapes = {name: set(tools[0]) for name, tools in found.items()}
    function = {"type", "name", "description", "parameters", "strict"}
    assert shapes == {
        "mcp": {"name", "title", "description", "inputSchema", "outputSchema", "annotations"},
        "openai": function,
        "openai_strict": function,
        "anthropic": {"name", "description", "input_schema"},
        "gemini": {"name", "description", "parameters"},
    }
    assert [found[name][0]["strict"] for name in ("openai", "openai_strict")] == [False, True]


def test_mcp_annotations_come_from_the_declaration(tools_of: ToolsOf, acme: Tenant) -> None:
    tools = {tool["name"]: tool for tool in tools_of("mcp").list(RequestContext(acme, CLERK))}
    hints = {
        name: tuple(tools[name]["annotations"][f"{hint}Hint"] for hint in ("readOnly", "destructive", "idempotent"))
        for name in ("payments__refund", "payments__note", "payments__search")
    }
    assert hints == {
        "payments__refund": (False, True, True),
        "payments__note": (False, True, False),
        "payments__search": (True, False, True),
    }


def test_a_tool_says_that_it_may_wait_for_a_person(tools_of: ToolsOf, acme: Tenant) -> None:
    described = {tool["name"]: tool["description"] for tool in tools_of("openai").list(RequestContext(acme, CLERK))}
    assert "A person may have to approve the call" in described["payments__refund"]
    assert described["payments__note"] == "Write a note"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_required_key_is_an_argument(tools_of: ToolsOf, acme: Tenant, dialect: str) -> None:
    tool = tools_of(dialect).list(RequestContext(acme, CLERK))
    by_name = {each["name"]: each for each in tool}
    key = {"mcp": "inputSchema", "anthropic": "input_schema"}.get(dialect, "parameters")
    schema = by_name["payments__refund"][key]
    assert schema["properties"]["idempotency_key"]["type"] == "string"
    # A client of MCP can send it in `_meta`.
    assert ("idempotency_key" in schema["required"]) is (dialect != "mcp")
    assert "idempotency_key" not in by_name["payments__note"][key]["properties"]


def test_the_key_has_a_name_of_its_own(acme: Tenant) -> None:
    class Own(BaseModel):
        idempotency_key: str

    engine = engine_with("a.b", validation=Own, idempotency="required", is_protected=False)
    tools = Tools(engine, "openai", ["a"])
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    context = RequestContext(tenant)
    assert list(tools.list(context)[0]["parameters"]["properties"]) == ["idempotency_key", "idempotency_key_"]
    answer = tools.call("a__b", {"idempotency_key": "mine", "idempotency_key_": "k1"}, context)
    assert answer.structured == {"idempotency_key": "mine"}


def test_examples_are_arguments(acme: Tenant) -> None:
    class Line(BaseModel):
        sku: str

    engine = engine_with("a.b", validation=Line, examples=[{"sku": "x"}, {"sku": "y", "ignored": 1}])
    context = RequestContext(engine.storage.create_tenant(slug="acme", name="Acme"), MANAGER)
    assert Tools(engine, "anthropic", ["a"]).list(context)[0]["input_examples"] == [{"sku": "x"}]
    assert Tools(engine, "mcp", ["a"]).list(context)[0]["inputSchema"]["examples"] == [{"sku": "x"}]
    strict = Tools(engine, "anthropic", ["a"], strict=["a.b"]).list(context)[0]
    assert strict["strict"] is True
    assert "input_examples" not in strict


# Names


def test_a_tool_may_have_an_alias(engine: Engine, acme: Tenant) -> None:
    tools = Tools(engine, "openai", ["payments"], aliases={"payments.search": "find"})
    context = RequestContext(acme, GUEST)
    assert names(tools, GUEST, acme) == ["find"]
    assert tools.call("find", {"limit": 1}, context).status == "succeeded"
    assert tools.call("payments__search", {"limit": 1}, context).status == "not_found"
    assert (tools.name_of("payments.search"), tools.action_of("find")) == ("find", "payments.search")
    assert (tools.name_of("payments.lost"), tools.action_of("lost")) == (None, None)


@pytest.mark.parametrize(
    ("actions", "options", "message"),
    [
        (["a__b.c", "a.b__c"], {}, r"a__b\.c and a\.b__c would both be the tool 'a__b__c'.*aliases=\{'a\.b__c'"),
        ([f"{'s' * 40}.{'a' * 40}"], {}, r"has 82 characters.*aliases=\{'s+\.a+': 'a+'\}"),
        (["größe.messen"], {}, r"'größe__messen' is not a name for a tool.*'messen'"),
        (["a.b c"], {}, r"not a name for a tool.*'b_c'"),
        (["a.b"], {"aliases": {"a.b": "a.b"}}, "'a.b' is not a name for a tool"),
        (["a.b"], {"aliases": {"a.b": ""}}, "'' is not a name for a tool"),
        (["a.b"], {"aliases": {"a.b": 5}}, "5 is not a name for a tool"),
        (["a.b", "a.c"], {"aliases": {"a.b": "x", "a.c": "x"}}, "a.b and a.c would both be the tool 'x'"),
        (["a.b", "a.c"], {"aliases": {"a.b": "a__c"}}, "would both be the tool 'a__c'"),
        (["a.b"], {"aliases": {"a.d": "x"}}, "aliases: 'a.d' is not one of .*did you mean 'a.b'"),
        (["a.b"], {"services": ["b"]}, "services: 'b' is not one of"),
        (["a.b"], {"services": "a"}, r"as in \['a'\], not the text 'a'"),
        (["a.b"], {"services": [None]}, "services: None is not one of"),
        (["a.b"], {"dialect": "grok"}, "dialect is one of 'mcp', 'openai'.*not 'grok'"),
        (["a.b"], {"dialect": None}, "not None"),
        (["a.b"], {"max_result_bytes": 10}, "at least 1000, not 10"),
        (["a.b"], {"strict": ["a.b"]}, "is for the dialect 'anthropic': tools of 'openai' are never strict"),
        (["a.b"], {"strict": ["a.c"], "dialect": "anthropic"}, "strict: 'a.c' is not one of"),
        (["1a.b"], {"dialect": "gemini"}, "'1a__b' is not a name for a tool.*'b'"),
    ],
)
def test_a_mistake_is_refused_with_the_way_out(actions: list[str], options: dict[str, Any], message: str) -> None:
    options = {"services": list(dict.fromkeys(name.partition(".")[0] for name in actions)), **options}
    with pytest.raises(ConfigurationError, match=message):
        Tools(engine_with(*actions), **{"dialect": "openai", **options})


def test_only_the_chosen_services_need_names() -> None:
    engine = engine_with("größe.messen", "a.b")
    assert Tools(engine, "openai", ["a"]).name_of("a.b") == "a__b"


# Limits


def many(count: int) -> Any:
    return create_model("Many", **{f"field_{number}": (int, ...) for number in range(count)})  # type: ignore[call-overload]


def choice(count: int, length: int) -> Any:
    values: Any = Literal[tuple(f"{number:0{length}}" for number in range(count))]
    return create_model("Choice", of=(values, ...))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (many(5_001), "properties of 5001; at most 5000"),
        (create_model("Long", **{f"{number:09999}": (int, 1) for number in range(13)}), "text of .*at most 120000"),  # type: ignore[call-overload]
    ],
)
def test_a_schema_over_the_limits_is_refused(validation: Any, message: str) -> None:
    engine = engine_with("a.b", validation=validation)
    with pytest.raises(ConfigurationError, match=f"a.b cannot be a tool of the dialect 'openai_strict'.*{message}"):
        Tools(engine, "openai_strict", ["a"])
    Tools(engine, "openai", ["a"])


@pytest.mark.parametrize(("count", "length", "is_kept"), [(250, 100, True), (1_000, 4, True), (300, 100, False)])
def test_a_long_enum_becomes_words(acme: Tenant, count: int, length: int, is_kept: bool) -> None:
    engine = engine_with("a.b", validation=choice(count, length), is_protected=False)
    context = RequestContext(engine.storage.create_tenant(slug="acme", name="Acme"))
    (tool,) = Tools(engine, "openai_strict", ["a"]).list(context)
    of = tool["parameters"]["properties"]["of"]
    assert ("enum" in of) is is_kept
    assert is_kept or "and 280 more" in of["description"]


def test_a_schema_that_grows_when_written_out_is_cut() -> None:
    models: list[Any] = [create_model("Leaf", value=(int, ...))]
    for _ in range(12):
        models.append(create_model("Fork", left=(models[-1], ...), right=(models[-1], ...)))
    engine = engine_with("a.b", validation=models[-1])
    for dialect in DIALECTS:
        Tools(engine, dialect, ["a"])  # type: ignore[arg-type]


def test_strict_tools_keep_the_limits_of_a_request() -> None:
    engine = engine_with(*(f"a.b{number}" for number in range(21)))
    assert Tools(engine, "anthropic", ["a"], strict=[f"a.b{number}" for number in range(20)])
    with pytest.raises(ConfigurationError, match="21 strict tools, and a request takes at most 20"):
        Tools(engine, "anthropic", ["a"], strict=[f"a.b{number}" for number in range(21)])
    optional = create_model("Optional", **{f"field_{number}": (int, 1) for number in range(25)})  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="25 strict optional fields, and a request takes at most 24"):
        Tools(engine_with("a.b", validation=optional), "anthropic", ["a"], strict=["a.b"])
    unions = create_model("Unions", **{f"field_{number}": (int | str, ...) for number in range(17)})  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="17 strict fields of several types, and a request takes at most 16"):
        Tools(engine_with("a.b", validation=unions), "anthropic", ["a"], strict=["a.b"])


# Engines with async handlers


def test_tools_of_a_blocking_engine_need_no_event_loop() -> None:
    async def handler(data: int) -> Any:
        await asyncio.sleep(0)
        return Success(data + 1)

    action = create_action(name="add", description="Add one", handler=handler, validation=int, is_protected=False)
    storage = InMemoryStorage()
    engine = create_engine(services=[create_service(name="a", description="", actions=[action])], storage=storage)
    context = RequestContext(storage.create_tenant(slug="acme", name="Acme"))
    with engine.blocking() as blocking:
        tools = Tools(blocking, "openai", ["a"])
        assert len(tools.list(context)) == 1
        assert tools.call("a__add", {"input": 1}, context).structured == {"result": 2}
    assert asyncio.run(tools.call_async("a__add", {"input": 1}, context)).structured == {"result": 2}
    assert len(asyncio.run(tools.list_async(context))) == 1
