"""The common parts of all responses: headers, methods, static files, and pages for what goes wrong."""

from __future__ import annotations

import re
from contextlib import closing
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from markupsafe import Markup

from actionengine import ActionError, Actor, PostgresStorage, RequestContext, Tenant, create_engine
from actionengine.console import create_console
from actionengine.console.rendering import _environment
from tests.console.till import Till, by

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/approvals", 200),
        ("GET", "/odd", 404),
        ("POST", "/approvals", 405),
        ("POST", "/do/odd/odd", 404),
        ("GET", "/static/0/console.css", 404),
        ("HEAD", "/approvals", 200),
        ("GET", "/approvals/", 404),
        ("GET", "//evil.example/", 404),
    ],
)
def test_every_response_has_the_headers(till: Till, method: str, path: str, status: int) -> None:
    answer = till.client.request(method, f"http://testserver{path}", headers=by("boss"))
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_a_head_has_no_body(till: Till) -> None:
    head, get = (till.client.request(method, "/approvals", headers=by("boss")) for method in ("HEAD", "GET"))
    assert (head.content, head.headers["content-length"]) == (b"", get.headers["content-length"])


def test_static_files_are_cached_by_their_hash(till: Till) -> None:
    page = till.get("/").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert sorted(each.rpartition("/")[2] for each in addresses) == [
        "console.css",
        "htmx.min.js",
        "hx-sse.min.js",
        "icon.svg",
    ]
    for address in addresses:
        answer = till.client.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = till.client.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/static/x/console.css", "/static/README.md", "/static/../__init__.py", "/static/%2e%2e/x"):
        assert till.client.get(path).status_code == 404


def test_pages_have_no_inline_code_and_no_other_origin(till: Till) -> None:
    id = till.ask()
    for path in ("/", "/approvals", f"/approvals/{id}", "/log", "/budgets", "/catalogue", "/odd"):
        page = till.get(path).text
        assert not re.search(r"<style|style=|\son\w+=|<script>|https?://", page), path
        assert page.startswith('<!doctype html>\n<html lang="en">')
        assert page.count("<h1") == 1
        levels = [int(each) for each in re.findall(r"<h(\d)", page)]
        assert all(after - before <= 1 for before, after in pairwise(levels)), path
        assert page.count('aria-current="page"') == (path != "/odd")


def test_an_unavailable_storage_gets_a_page() -> None:
    tenant = Tenant(uuid4(), "acme")
    with closing(PostgresStorage("postgresql://nobody@127.0.0.1:1/nothing")) as storage:
        engine = create_engine(services=[], storage=storage)
        boss = RequestContext(tenant, Actor.human("boss", permissions=["*"]))
        client = Till.client_of(create_console(engine, lambda request: boss))
        form = {"key": "k", "payload": '{"approval_id": "x"}', "return": "/approvals"}
        for answer in (client.get("/approvals"), client.get("/"), client.post("/do/approvals/approve", data=form)):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert "The storage is unavailable" in answer.text
            assert "127.0.0.1" not in answer.text


def test_an_error_of_a_page_stays_in_the_log(
    till: Till, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*arguments: Any) -> Any:
        raise RuntimeError("the token s3cr3t")

    monkeypatch.setattr(type(till.engine), "execute_action_async", fail)
    answer = till.get("/approvals")
    assert answer.status_code == 500
    assert "s3cr3t" not in answer.text
    assert "s3cr3t" in caplog.text


def test_an_authorizer_that_cannot_answer_gets_a_page(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: Any) -> Any:
        raise ActionError("unavailable", "the policy server is down")

    monkeypatch.setattr("actionengine.catalogue.permissions.Permissions.decide", fail)
    assert till.get("/approvals").status_code == 503


def test_the_title_is_the_hosts(till: Till) -> None:
    till.client = till.client_of(create_console(till.engine, till.identify, title="Acme <operations>"))
    assert "<title>Approvals · Acme &lt;operations&gt;</title>" in till.get("/approvals").text


def test_a_list_in_a_definition_is_shown_as_json() -> None:
    field = {"name": "urgency", "type": "choice", "required": False, "choices": ["today", "this week"]}

    macros: Any = _environment().get_template("diff.html").module
    shown = Markup(macros.definition(field)).striptags()

    assert shown == 'choice, choices: ["today", "this week"]'
