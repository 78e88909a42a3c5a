"""The business behind FastAPI: an asynchronous host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from returns.result import Failure, Result
from starlette.exceptions import HTTPException

from actionengine import ActionError, RequestContext
from examples.field_service.app import HostStorage, create_business
from examples.field_service.background import Background, named_publishers
from examples.field_service.feed import HEARTBEAT, MEDIA_TYPE, NO_BUFFERING, feed_async, watch_of
from examples.field_service.transport import (
    MAX_BODY,
    Answer,
    answer,
    describe,
    read_json,
    request_context,
    slug_of,
    transport_error,
)


def create_app(storage: HostStorage, *, relay: bool = True, heartbeat: float = HEARTBEAT) -> FastAPI:
    """A FastAPI application on a storage, which it closes when it shuts down.

    With `relay` it delivers the events too. Set `app.state.stopping`, and live feeds end (`server.py` does it).
    """
    engine = create_business(storage)
    stopping = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with storage, Background(storage, engine, *named_publishers()).in_tasks() if relay else nullcontext():
            yield

    app = FastAPI(title="Field service", redirect_slashes=False, lifespan=lifespan)
    app.state.stopping = stopping

    async def context(request: Request) -> Result[RequestContext, ActionError]:
        slug = slug_of(request.headers)
        if isinstance(slug, Failure):
            return slug
        tenant = await engine.resolve_tenant_async(slug.unwrap())
        return tenant.bind(lambda found: request_context(request.headers, found))

    @app.post("/api/{service}/{action}")
    async def execute(service: str, action: str, request: Request) -> JSONResponse:
        payload = read_json(await _body(request))
        ctx = await context(request)
        if isinstance(ctx, Failure) or isinstance(payload, Failure):
            return _respond(answer(ctx.bind(lambda _: payload)))
        result = await engine.execute_action_async(service, action, payload.unwrap(), ctx.unwrap())
        return _respond(answer(result))

    @app.get("/api/services")
    async def services(request: Request) -> JSONResponse:
        return _respond(answer((await context(request)).bind(lambda ctx: engine.get_services())))

    @app.get("/api/services/{service}")
    async def actions(service: str, request: Request) -> JSONResponse:
        return _respond(answer((await context(request)).bind(lambda ctx: engine.get_service_actions(service))))

    @app.get("/api/services/{service}/{action}")
    async def action(service: str, action: str, request: Request) -> JSONResponse:
        found = (await context(request)).bind(lambda ctx: engine.get_action(service, action))
        return _respond(answer(found.map(describe)))

    @app.get("/events")
    async def events(request: Request) -> Response:
        ctx = await context(request)
        if isinstance(ctx, Failure):
            return _respond(answer(ctx))
        asked = watch_of(request.query_params, request.headers)
        watch = await engine.execute_action_async("events", "watch", asked, ctx.unwrap())
        if isinstance(watch, Failure):
            return _respond(answer(watch))
        messages = feed_async(engine, ctx.unwrap(), watch.unwrap(), stopping, heartbeat)
        return StreamingResponse(messages, media_type=MEDIA_TYPE, headers=NO_BUFFERING)

    @app.get("/health")
    async def health() -> JSONResponse:
        return _respond((200, {"data": "ok"}))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        response = _respond(transport_error(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def crashed(request: Request, error: Exception) -> JSONResponse:
        return _respond(transport_error(500, "something went wrong here; it is in the log"))

    return app


async def _body(request: Request) -> bytes:
    """The body, read no further than it may be long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is longer than {MAX_BODY} bytes")
    return bytes(body)


def _respond(given: Answer) -> JSONResponse:
    status, body = given
    return JSONResponse(body, int(status))
