"""The console in hosts: under a prefix, for many tenants, in FastAPI, Flask and Django, under ASGI and WSGI."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.urls import URLPattern
from fastapi import FastAPI
from flask import Flask
from httpx import Client, WSGITransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from actionengine import RequestContext
from actionengine.console import as_wsgi, create_console
from tests.console.till import USER, Till, by, forms_of

_ADDRESS = re.compile(r'(?:href|src|action)="([^"]*)"')


def asgi(app: Any) -> Any:
    return Till.client_of(app)


def wsgi(app: Any) -> Any:
    return Client(transport=WSGITransport(app=app), base_url="http://testserver")


def in_starlette(till: Till) -> tuple[Any, str]:
    console = create_console(till.engine, till.identify)
    return asgi(Starlette(routes=[Mount("/back office/console", console)])), "/back%20office/console"


def in_nested_mounts(till: Till) -> tuple[Any, str]:
    console = create_console(till.engine, till.identify)
    return asgi(Starlette(routes=[Mount("/approvals", Starlette(routes=[Mount("/log", console)]))])), "/approvals/log"


def in_fastapi(till: Till) -> tuple[Any, str]:
    app = FastAPI()
    app.mount("/console", create_console(till.engine, till.identify))
    return asgi(app), "/console"


def behind_root_path(till: Till) -> tuple[Any, str]:
    return Till.client_of(create_console(till.engine, till.identify), root_path="/ops"), "/ops"


def in_flask(till: Till) -> tuple[Any, str]:
    app = Flask("host")
    console = as_wsgi(create_console(till.engine, till.identify))
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/console": console})  # type: ignore[method-assign]
    return wsgi(app), "/console"


def in_django(till: Till) -> tuple[Any, str]:
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    django_console["/console"] = as_wsgi(create_console(till.engine, till.identify))
    return wsgi(DispatcherMiddleware(WSGIHandler(), django_console)), "/console"


django_console: dict[str, Any] = {}
urlpatterns: list[URLPattern] = []

HOSTS = [
    in_starlette,
    in_nested_mounts,
    in_fastapi,
    behind_root_path,
    in_flask,
    in_django,
]


@pytest.mark.parametrize("host", HOSTS)
def test_all_addresses_are_below_the_prefix(till: Till, host: Callable[[Till], tuple[Any, str]]) -> None:
    client, root = host(till)
    id = till.ask()
    for page in ("/", "/approvals", f"/approvals/{id}", "/log", "/budgets", "/catalogue", "/nothing", "/approvals/x"):
        answer = client.get(root + page, headers=by("boss"))
        assert answer.status_code in (200, 404), (page, answer.text)
        addresses = [each for each in _ADDRESS.findall(answer.text) if not each.startswith("#")]
        assert addresses, page
        assert [each for each in addresses if not each.startswith(f"{root}/")] == []
    static = [each for each in addresses if "/static/" in each]
    assert {client.get(each).status_code for each in static} == {200}


@pytest.mark.parametrize("host", HOSTS)
def test_a_button_is_pressed_under_a_prefix(till: Till, host: Callable[[Till], tuple[Any, str]]) -> None:
    client, root = host(till)
    address = f"{root}/approvals/{till.ask()}"
    form = forms_of(client.get(address, headers=by("boss")).text)["approvals.approve"]
    answer = client.post(form.action, data=dict(form), headers=by("boss"))
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    assert f"Path={root}/;" in answer.headers["set-cookie"]
    assert till.paid() == 1
    late = client.post(form.action, data={**form, "key": "other"}, headers=by("boss"))
    assert late.status_code == 409
    assert "is approved by human:boss" in late.text


@pytest.mark.parametrize("host", [in_flask, behind_root_path])
def test_the_prefix_alone_leads_to_the_overview(till: Till, host: Callable[[Till], tuple[Any, str]]) -> None:
    client, root = host(till)
    answer = client.get(root, headers=by("boss"))
    assert (answer.status_code, answer.headers["location"]) == (308, f"{root}/")


def test_many_tenants_have_a_console_each(till: Till) -> None:
    def identify(request: Request) -> RequestContext | None:
        slug, user = request.path_params["tenant"], request.headers.get(USER)
        return till.context(slug, user) if user is not None else None

    app = Starlette(routes=[Mount("/t/{tenant}/console", create_console(till.engine, identify))])
    client = Till.client_of(app)
    ids = {slug: till.ask(tenant=slug, reason=f"for {slug}") for slug in ("acme", "globex")}
    for slug, other in (("acme", "globex"), ("globex", "acme")):
        page = client.get(f"/t/{slug}/console/approvals", headers={USER: "boss"}).text
        assert f"/t/{slug}/console/approvals/{ids[slug]}" in page
        assert other not in page
        assert client.get(f"/t/{slug}/console/approvals/{ids[other]}", headers={USER: "boss"}).status_code == 404
    address = f"/t/acme/console/approvals/{ids['acme']}"
    form = forms_of(client.get(address, headers={USER: "boss"}).text)["approvals.reject"]
    assert (
        client.post(form.action.replace("acme", "globex"), data=dict(form), headers={USER: "boss"}).status_code == 404
    )
    assert client.post(form.action, data=dict(form), headers={USER: "boss"}).headers["location"] == address


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/approvals\xff", "", "404 Not Found"),
        ("/approvals", "status=\xe9&status=%ff", "400 Bad Request"),
        ("/approvals/\xe2\x80\xae", "", "404 Not Found"),
        ("/\0", "", "404 Not Found"),
        ("", "", "308 Permanent Redirect"),
    ],
)
def test_odd_addresses_get_a_page_under_wsgi(till: Till, path: str, query: str, status: str) -> None:
    app = as_wsgi(create_console(till.engine, till.identify))
    environ = {"SCRIPT_NAME": "/console", "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": "GET"}
    environ |= {"SERVER_NAME": "x", "SERVER_PORT": "80", "HTTP_X_USER": "acme/boss", "wsgi.input": ""}
    answers: list[str] = []
    body = b"".join(app(environ, lambda status, headers, error=None: answers.append(status)))
    assert (answers, b"<h1>" in body) == ([status], not status.startswith("308"))


def test_a_server_may_fork_before_the_first_request(till: Till) -> None:
    app = as_wsgi(create_console(till.engine, till.identify))
    assert wsgi(app).get("/approvals", headers=by("boss")).status_code == 200
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os._exit(wsgi(app).get("/approvals", headers=by("boss")).status_code == 200)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_threads_share_a_wsgi_console(till: Till) -> None:
    client, root = in_flask(till)
    ids = [till.ask(amount) for amount in range(8)]

    def decide(id: str) -> int:
        form = forms_of(client.get(f"{root}/approvals/{id}", headers=by("boss")).text)["approvals.approve"]
        return int(client.post(form.action, data=dict(form), headers=by("boss")).status_code)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(decide, ids)) == [303] * 8
    assert till.paid() == 8


def test_a_prefix_adds_no_attribute_to_the_cookie(till: Till) -> None:
    console = create_console(till.engine, till.identify)
    till.client = asgi(Starlette(routes=[Mount("/t/{name}/console", console)]))
    form = till.forms(f"/t/a;Domain=example.com;b/console/approvals/{till.ask()}")["approvals.reject"]
    answer = till.press(form)
    assert answer.status_code == 303
    assert "Path=/t/a%3BDomain=example.com%3Bb/console/;" in answer.headers["set-cookie"]
    assert "Rejected" in till.get(answer.headers["location"], cookie="actionengine_done=approvals.reject").text
