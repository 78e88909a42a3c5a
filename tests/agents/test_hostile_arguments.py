"""Nothing that a model sends raises, whatever it is, and each answer is plain JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionengine import InMemoryStorage, RequestContext, Tenant, Tools
from tests.agents.family import JSON
from tests.agents.host import CLERK, MANAGER, make_host
from tests.agents.shapes import make_shapes

FIELDS = st.sampled_from(
    [
        *("amount", "payment_id", "lines", "sku", "count", "text", "pin", "kind", "limit", "input", "idempotency_key"),
        *("approval_id", "value", "children", "either", "pay", "number", "key", "left", "table", "anything", "point"),
    ]
)
ODD = st.sampled_from(
    [float("inf"), "\ud800", "\0", b"x", object(), (1,), {1: 2}, 10**400, Decimal(1), {"a"}, "{", "[]"]
)
ANYTHING = st.recursive(
    JSON | ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(), inner, max_size=5)
)


@pytest.fixture(scope="module")
def acme(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug=f"acme-{uuid4().hex}", name="Acme")


@pytest.fixture(scope="module", params=["mcp", "openai_strict", "gemini"])
def all_tools(request: pytest.FixtureRequest, storage: InMemoryStorage) -> list[Tools]:
    return [Tools(engine, request.param) for engine in (make_host(storage), make_shapes(storage=storage))]


@given(arguments=ANYTHING, data=st.data())
def test_no_arguments_raise(all_tools: list[Tools], acme: Tenant, arguments: Any, data: st.DataObject) -> None:
    tools = data.draw(st.sampled_from(all_tools))
    name = data.draw(st.sampled_from(list(tools._by_name)))
    context = RequestContext(acme, data.draw(st.sampled_from([CLERK, MANAGER, None])))
    result = tools.call(name, arguments, context)
    json.dumps(result.structured, ensure_ascii=False).encode()
    result.text.encode()
    if result.is_error:
        assert result.status == result.structured["status"] != "internal"


@given(name=ANYTHING)
def test_no_name_raises(all_tools: list[Tools], acme: Tenant, name: Any) -> None:
    result = all_tools[0].call(name, {}, RequestContext(acme, CLERK))
    assert result.status == "not_found"
    json.dumps(result.structured, ensure_ascii=False).encode()
    result.text.encode()
