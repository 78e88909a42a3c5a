"""Headers become a request context, and a body becomes a payload."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers as StarletteHeaders
from werkzeug.datastructures import Headers as WerkzeugHeaders

from actionengine import ActionError, Actor, RequestContext, Tenant
from actionengine.http import MAX_BODY_BYTES, Headers, RequestRefused, context_from_headers, read_json

ACME = Tenant(uuid4(), "acme")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def context(headers: Headers | None = None, **named: str) -> RequestContext:
    given = headers or {name.replace("_", "-"): value for name, value in named.items()}
    return context_from_headers(given, ACME, Actor.human("carla"))


def test_a_context_has_what_the_headers_say() -> None:
    found = context({"Idempotency-Key": "k-1", "X-REASON": "a call", "x-request-id": "r-1", "X-Plan": "p"})
    assert found == RequestContext(
        ACME, Actor.human("carla"), "http", reason="a call", idempotency_key="k-1", request_id="r-1", plan="p"
    )
    assert context({}) == RequestContext(ACME, Actor.human("carla"), "http")


def test_no_header_names_the_tenant_or_the_actor() -> None:
    headers = {"x-tenant-id": "globex", "x-user-id": "maria", "authorization": "Bearer maria", "x-roles": "manager"}
    assert context_from_headers(headers, ACME, None) == RequestContext(ACME, None)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a \"b\" \\ c, d"', r'a "b" \ c, d'),
        (r"a\b/c=;:+", r"a\b/c=;:+"),
        ("the same", "the same"),
        ('""', ""),
        ("", ""),
        ("k" * 10_000, "k" * 10_000),
    ],
)
def test_a_key_is_a_quoted_string_or_plain(value: str, key: str) -> None:
    assert context(idempotency_key=value).idempotency_key == key


@pytest.mark.parametrize(
    "value", ['"a', 'a"', '"a" "b"', '"a", "b"', "a, b", "a,b", '"a";x=1', r'"a\b"', "ä", '"ä"', "\x00", "a\n"]
)
def test_any_other_key_is_refused(value: str) -> None:
    with pytest.raises(ActionError, match="idempotency key") as refused:
        context(idempotency_key=value)
    assert refused.value.code == "invalid_input"


@pytest.mark.parametrize(
    "headers",
    [
        StarletteHeaders(raw=[(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]),
        WerkzeugHeaders([("Idempotency-Key", "a"), ("idempotency-key", "b")]),
        StarletteHeaders(raw=[(b"idempotency-key", b'"a"'), (b"idempotency-key", b'"a"')]),
    ],
    ids=["starlette", "werkzeug", "quoted"],
)
def test_two_keys_are_refused(headers: Any) -> None:
    with pytest.raises(ActionError, match="one idempotency key"):
        context(headers)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_each_ascii_key_has_a_quoted_form(key: str) -> None:
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    assert context(idempotency_key=f'"{quoted}"').idempotency_key == key


@given(st.text())
def test_a_key_is_accepted_or_refused_with_an_error(value: str) -> None:
    with suppress(ActionError):
        key = context(idempotency_key=value).idempotency_key
        assert key is not None
        assert key.isascii()


def test_a_reason_in_utf_8_is_read_as_it_was_written() -> None:
    reason = "Größe 王 falsch"
    assert context(x_reason=reason.encode().decode("latin-1")).reason == reason
    assert context(x_reason="Größe").reason == "Größe"
    assert context(x_reason="\xff").reason == "\xff"
    assert context(x_reason=reason).reason == reason


@given(st.dictionaries(st.sampled_from(["x-reason", "x-request-id", "x-plan", "traceparent"]), st.text()))
def test_any_other_header_makes_a_context(headers: dict[str, str]) -> None:
    assert context(headers).tenant == ACME


def test_a_trace_is_the_request_id_where_there_is_none() -> None:
    assert context(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01").request_id == TRACE
    assert context(traceparent=f"01-{TRACE}-00f067aa0ba902b7-01-more").request_id == TRACE
    assert context(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01", x_request_id="r-1").request_id == "r-1"


@pytest.mark.parametrize("trace", ["", TRACE, f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
def test_a_malformed_trace_is_ignored(trace: str) -> None:
    assert context(traceparent=trace).request_id is None


def test_long_texts_are_cut_as_the_log_cuts_them() -> None:
    found = context(x_reason="r" * 100_000, x_request_id="i" * 100_000)
    assert found.reason is not None
    assert found.request_id is not None
    assert (len(found.reason), len(found.request_id)) == (10_000, 500)


def test_a_body_is_json_and_none_is_an_empty_payload() -> None:
    assert read_json(b'{"name": "Zo\xc3\xab"}') == {"name": "Zoë"}
    assert read_json(b"[1]") == [1]
    assert read_json(b"") == {}
    assert read_json(b"{}".ljust(MAX_BODY_BYTES)) == {}


@pytest.mark.parametrize("body", [b"{", b"name=Ada", b'"\xff"', b"{} {}", b"\x00", b"[" * 10**6, b"9" * 9999])
def test_any_other_body_is_invalid_input(body: bytes) -> None:
    with pytest.raises(ActionError, match="the body is not JSON") as refused:
        read_json(body)
    assert refused.value.code == "invalid_input"
    assert "Ada" not in refused.value.message


def test_a_body_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestRefused, match="longer than 10 bytes") as refused:
        read_json(b"[" * 11, max_bytes=10)
    assert (refused.value.status, refused.value.code) == (413, "too_large")
