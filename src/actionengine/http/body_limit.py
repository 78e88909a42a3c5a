"""A limit for the bodies of requests, in any ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from actionengine.http.responses import RequestRefused, to_response

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGI: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a request's body, at most, where the host sets no other limit."""


class BodyLimit:
    """An ASGI middleware that reads the body of a request before the application does, up to `max_bytes`.

    A longer body is refused with 413, as `to_response` answers, whether its length is declared or not; the application
    is not called.
    """

    def __init__(self, app: ASGI, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Call the application, with a body that has been read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, has_more = bytearray(), True
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                return  # The client has gone.
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                await _refuse(RequestRefused(413, f"the body is longer than {self._max_bytes} bytes"), send)
                return
        read: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return read.pop() if read else await receive()

        await self._app(scope, replay, send)


async def _refuse(refusal: RequestRefused, send: Send) -> None:
    response = to_response(refusal)
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    headers += [(b"content-length", str(len(response.body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
