"""A limit for bodies in any ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from actionengine.http import BodyLimit

LIMIT = 10


def call(messages: Sequence[dict[str, Any]], type: str = "http") -> tuple[list[Any], list[Any]]:
    """Return the messages that the application received, and those that it or the limit sent."""
    received: list[Any] = []
    sent: list[Any] = []
    waiting = list(messages)

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2 if type == "http" else 1):
            received.append(await receive())
        await send("answer")

    asyncio.run(BodyLimit(application, LIMIT)({"type": type}, receive, send))
    return received, sent


def body(*chunks: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": chunk, "more_body": n < len(chunks)} for n, chunk in enumerate(chunks, 1)
    ] + [{"type": "http.disconnect"}]


@pytest.mark.parametrize("chunks", [(b"",), (b"x" * LIMIT,), (b"xxxx", b"", b"xxxxxx"), tuple([b"x"] * LIMIT)])
def test_a_body_within_the_limit_comes_in_one_piece(chunks: tuple[bytes, ...]) -> None:
    received, sent = call(body(*chunks))
    whole = {"type": "http.request", "body": b"".join(chunks), "more_body": False}
    assert received == [whole, {"type": "http.disconnect"}]
    assert sent == ["answer"]


@pytest.mark.parametrize("chunks", [(b"x" * (LIMIT + 1),), (b"x" * LIMIT, b"x"), (b"x" * LIMIT, b"x", b"never read")])
def test_a_longer_body_is_413_and_the_application_is_not_called(chunks: tuple[bytes, ...]) -> None:
    received, (start, content) = call(body(*chunks))
    assert received == []
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (413, b"application/json")
    assert int(headers[b"content-length"]) == len(content["body"])
    assert json.loads(content["body"])["error"]["code"] == "too_large"


def test_a_client_that_goes_before_its_body_ends_is_not_served() -> None:
    assert call([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]) == ([], [])


def test_other_connections_are_passed_through() -> None:
    message = {"type": "websocket.connect"}
    assert call([message], type="websocket") == ([message], ["answer"])
