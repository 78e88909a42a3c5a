"""Callers: identified by the host, refused by it, or the reason of a crash."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from actionengine import ActionError, ConfigurationError, RequestContext
from actionengine.console import create_console
from tests.console.till import Till

SECRET = "the token s3cr3t"


def test_a_forgotten_identify_is_a_configuration_error(till: Till) -> None:
    with pytest.raises(ConfigurationError, match="needs identify"):
        create_console(till.engine)
    with pytest.raises(ConfigurationError, match="identify is a function"):
        create_console(till.engine, "ann")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs an Engine first"):
        create_console(till.identify, till.engine)  # type: ignore[arg-type]


def test_an_unknown_caller_is_asked_to_sign_in(till: Till) -> None:
    answer = till.client.get("/approvals")
    assert answer.status_code == 401
    assert "Sign in first" in answer.text
    assert "<nav" not in answer.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ActionError("unauthenticated", SECRET), 401),
        (HTTPException(401, SECRET), 401),
        (HTTPException(418, SECRET), 403),
        (PermissionError(SECRET), 403),
        (KeyError(SECRET), 403),
        (ActionError("forbidden", SECRET), 403),
        (ActionError("not_found", SECRET), 403),
        (StopIteration(SECRET), 403),
        (ActionError("unavailable", SECRET), 503),
        (RuntimeError(SECRET), 500),
        (ZeroDivisionError(SECRET), 500),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_refusals_and_crashes_say_nothing(
    till: Till, error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def identify(request: Request) -> Any:
        raise error

    async def identify_async(request: Request) -> Any:
        await asyncio.sleep(0)
        raise error

    if kind == "async def" and isinstance(error, StopIteration):
        status = 500  # Python makes a RuntimeError of it.
    with caplog.at_level(logging.WARNING, "actionengine"):
        client = till.client_of(create_console(till.engine, identify if kind == "def" else identify_async))
        answer = client.get("/approvals")
    assert answer.status_code == status
    assert SECRET not in answer.text
    assert ("retry-after" in answer.headers) is (status == 503)
    assert [record.levelname for record in caplog.records] == ["ERROR" if status == 500 else "WARNING"]


@pytest.mark.parametrize("value", [True, "ann", {"actor": "ann"}, object()])
def test_another_value_is_a_crash(till: Till, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    answer = till.client_of(create_console(till.engine, lambda request: value)).get("/approvals")
    assert answer.status_code == 500
    assert "has to return a RequestContext" in caplog.text


@pytest.mark.parametrize("how", ["form", "body"])
def test_identify_may_read_the_form(till: Till, how: str) -> None:
    async def identify(request: Request) -> RequestContext:
        await getattr(request, how)()
        return till.context("acme", "boss")

    till.client = till.client_of(create_console(till.engine, identify))
    form = till.forms(f"/approvals/{till.ask()}")["approvals.approve"]
    assert till.press(form).status_code == 303
    assert till.paid() == 1


def test_an_unknown_tenant_is_refused(till: Till) -> None:
    def identify(request: Request) -> RequestContext:
        return RequestContext(till.engine.resolve_tenant("nobody").unwrap())

    assert till.client_of(create_console(till.engine, identify)).get("/").status_code == 403


def test_a_context_without_a_tenant_or_an_actor_gets_a_page(till: Till) -> None:
    for context, status in ((RequestContext(None), 401), (RequestContext(till.tenant()), 401)):
        client = till.client_of(create_console(till.engine, partial(_given, context)))
        assert client.get("/approvals").status_code == status


def _given(context: RequestContext, request: Request) -> RequestContext:
    return context


def test_the_source_of_the_context_stays(till: Till) -> None:
    def identify(request: Request) -> RequestContext:
        boss = till.context("acme", "boss")
        return RequestContext(boss.tenant, boss.actor, source="back office", request_id="r-7")

    till.client = till.client_of(create_console(till.engine, identify))
    till.get("/approvals")
    assert {(row.source, row.request_id) for row in till.log()} == {("back office", "r-7")}


def test_pages_need_their_permission(till: Till) -> None:
    guest = till.get("/", "guest").text
    assert 'href="/log"' not in guest
    assert 'href="/log"' in till.get("/", "boss").text
    answer = till.get("/log", "guest")
    assert answer.status_code == 403
    assert "action_log.read" in answer.text


def test_a_page_of_an_absent_service_says_so(till: Till) -> None:
    answer = till.get("/runs")
    assert answer.status_code == 404
    assert "workflows.list" in answer.text
    assert 'href="/runs"' not in answer.text


def test_a_deleted_tenant_gets_a_page(till: Till) -> None:
    till.storage.delete_tenant(slug="acme")
    answer = till.get("/approvals")
    assert answer.status_code == 404
    assert "the tenant has been deleted" in answer.text
