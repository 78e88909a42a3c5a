"""Posts: from this site only, with a form of the console, and back to a page of the console."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from actionengine import ConfigurationError
from actionengine.console import create_console
from tests.console.till import Form, Till, by


@pytest.fixture
def form(till: Till) -> Form:
    return till.forms(f"/approvals/{till.ask()}")["approvals.approve"]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "odd"},
        {"origin": "https://evil.example"},
        {"origin": "http://testserver.evil.example"},
        {"origin": "http://testserver:8080"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": ""},
        {"sec-fetch-site": "cross-site", "origin": "http://testserver"},
    ],
)
def test_posts_of_other_sites_are_refused(till: Till, form: Form, headers: dict[str, str]) -> None:
    answer = till.press(form, headers=headers)
    assert answer.status_code == 403
    assert "Another site sent it" in answer.text
    assert till.paid() == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin", "origin": "http://testserver"},
        {"sec-fetch-site": "same-origin", "origin": "https://behind-a-proxy.example"},
        {"origin": "http://testserver"},
        {"origin": "https://TESTSERVER:443"},
    ],
)
def test_posts_of_this_site_are_taken(till: Till, form: Form, headers: dict[str, str]) -> None:
    assert till.press(form, headers=headers).status_code == 303
    assert till.paid() == 1


def test_a_host_names_the_origins_of_its_proxy(till: Till, form: Form) -> None:
    origins = ["https://ops.example.com"]
    till.client = till.client_of(create_console(till.engine, till.identify, allowed_origins=origins))
    assert till.press(form, headers={"origin": "https://ops.example.com.evil"}).status_code == 403
    headers = {"origin": "https://OPS.example.com", "sec-fetch-site": "cross-site"}
    assert till.press(form, headers=headers).status_code == 303


@pytest.mark.parametrize("origins", ["https://ops.example.com", ["ops.example.com"], ["https://a/b"], [7], ["*"]])
def test_an_origin_that_is_none_is_refused(till: Till, origins: Any) -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        create_console(till.engine, till.identify, allowed_origins=origins)


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("/approvals?status=all&after=x", "/approvals?status=all&after=x"),
        ("//evil.example/", "/evil.example/"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        (f"/{'a' * 100_000}", "/"),
        ("/../sign-out", "/"),
        ("/approvals/%2E%2e", "/"),
        ("/.%2f..//evil.example", "/"),
        ("/..\\evil.example", "/"),
        ("/approvals?after=..", "/approvals?after=.."),
        ("/a\r\nset-cookie: x=1", "/a%0D%0Aset-cookie:%20x=1"),
        ("", "/"),
    ],
)
def test_a_form_leads_back_into_the_console(till: Till, form: Form, address: str, location: str) -> None:
    form["return"] = address
    answer = till.press(form)
    assert (answer.status_code, answer.headers["location"]) == (303, location)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"key": ""}, 400),
        ({"payload": "{"}, 400),
        ({"payload": "[]"}, 400),
        ({"payload": '{"approval_id": 7}'}, 400),
        ({"payload": "{}"}, 400),
        ({"payload": "[" * 100_000}, 400),
        ({"key": "k" * 100_000}, 400),
        ({"field.comment": "c" * 5000}, 400),
        ({"field.comment": "\0"}, 400),
        ({"plan": "plan_of_another"}, 400),
        ({f"x{number}": "" for number in range(200)}, 400),
        ({"field.comment": "c" * 1_100_000}, 413),
    ],
)
def test_a_tampered_form_gets_a_page(till: Till, form: Form, change: dict[str, str], status: int) -> None:
    form.update(change)
    answer = till.press(form)
    assert answer.status_code == status, answer.text
    assert "<h1>" in answer.text
    assert till.paid() == 0


def test_another_body_is_refused(till: Till, form: Form) -> None:
    for content_type, body in (("application/json", b"{}"), ("multipart/form-data; boundary=x", b"--x--"), ("", b"")):
        answer = till.client.post(form.action, content=body, headers={**by("boss"), "content-type": content_type})
        assert answer.status_code == 415
    header = {"content-type": "application/x-www-form-urlencoded"}
    assert till.client.post(form.action, content=b"key=%ff", headers={**by("boss"), **header}).status_code == 400


def test_only_declared_buttons_are_pressed(till: Till) -> None:
    for path in ("/do/payments/pay", "/do/roles/assign", "/do/odd/odd", "/do/approvals/list"):
        answer = till.client.post(path, data={"key": "k", "payload": "{}"}, headers=by("boss"))
        assert answer.status_code == 404
    assert till.log(action="payments.pay") == []


def test_a_get_changes_nothing(till: Till, form: Form) -> None:
    assert till.get(form.action).status_code == 405
    assert till.get(form.action).headers["allow"] == "POST"
    assert till.client.post("/approvals", headers=by("boss")).status_code == 405
    assert till.client.delete("/approvals", headers=by("boss")).status_code == 405
    assert till.paid() == 0


def test_a_caller_who_is_not_signed_in_presses_nothing(till: Till, form: Form) -> None:
    answer = till.client.post(form.action, data=dict(form))
    assert answer.status_code == 401
    assert till.paid() == 0


def test_a_key_of_another_form_is_refused(till: Till, form: Form) -> None:
    assert till.press(form, comment="one").status_code == 303
    answer = till.press(form, comment="two")
    assert answer.status_code == 422
    assert till.paid() == 1


def test_a_client_that_hangs_up_executes_nothing(till: Till, form: Form, caplog: pytest.LogCaptureFixture) -> None:
    body = urlencode(form).encode()
    received: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []
    headers = {"content-type": "application/x-www-form-urlencoded", **by("boss")}
    scope = {
        "type": "http",
        "method": "POST",
        "path": form.action,
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> Any:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create_console(till.engine, till.identify)(scope, receive, send))

    assert sent[0]["status"] == 400
    assert till.paid() == 0
    # It is no fault of the application.
    assert caplog.records == []
