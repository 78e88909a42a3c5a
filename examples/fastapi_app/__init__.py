"""The business behind FastAPI: an asynchronous host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from returns.result import Failure, Result
from starlette import routing
from starlette.exceptions import HTTPException

from actionengine import ActionError, RequestContext
from examples.fastapi_app.status import PAGE, PAGE_HEADERS
from examples.field_service.app import HostStorage, create_business
from examples.field_service.background import Background, named_publishers
from examples.field_service.feed import HEARTBEAT_INTERVAL, MEDIA_TYPE, NO_BUFFERING, feed_async, watch_of
from examples.field_service.routes import ROUTES, Route, payload_of
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


def create_app(
    storage: HostStorage, *, relay: bool = True, workflows: str | None = None, heartbeat: float = HEARTBEAT_INTERVAL
) -> FastAPI:
    """Return a FastAPI application on a storage, which it closes when it shuts down.

    With `relay` it also delivers the events, and with the URL of the durable engine's tables it takes the steps of
    workflows. Live feeds end when `app.state.stopping` is set (`server.py` does it).
    """
    engine = create_business(storage)
    stopping = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with storage, background() if relay else nullcontext():
            yield

    def background() -> AbstractAsyncContextManager[None]:
        return Background(storage, engine, *named_publishers(), workflows=workflows).in_tasks()

    app = FastAPI(title="Field service", redirect_slashes=False, lifespan=lifespan)
    app.state.stopping = stopping

    async def context(request: Request) -> Result[RequestContext, ActionError]:
        slug = slug_of(request.headers)
        if isinstance(slug, Failure):
            return slug
        tenant = await engine.resolve_tenant_async(slug.unwrap())
        return tenant.bind(lambda found: request_context(request.headers, found))

    async def execute(service: str, action: str, payload: Result[Any, ActionError], request: Request) -> JSONResponse:
        ctx = await context(request)
        if isinstance(ctx, Failure) or isinstance(payload, Failure):
            return _respond(answer(ctx.bind(lambda _: payload)))
        result = await engine.execute_action_async(service, action, payload.unwrap(), ctx.unwrap())
        return _respond(answer(result))

    def serve(route: Route) -> None:
        async def view(request: Request) -> JSONResponse:
            body = await _body(request)
            payload = body.map(lambda body: payload_of(request.path_params, request.query_params, body))
            return await execute(route.service, route.action, payload, request)

        name = f"{route.service}.{route.action}"
        app.add_api_route(route.path, view, methods=[route.method], name=name)

    for route in ROUTES:
        serve(route)

    # This route comes last, because the first route that matches a path is used.
    @app.post("/api/{service}/{action}")
    async def by_name(service: str, action: str, request: Request) -> JSONResponse:
        return await execute(service, action, await _body(request), request)

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

    @app.get("/status")
    async def status() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> JSONResponse:
        return _respond((200, {"data": "ok"}))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        response = _respond(transport_error(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        if error.status_code == 405:  # Starlette lists the methods of one route, and a path may have several
            response.headers["allow"] = ", ".join(sorted(_methods_of(app, request)))
        return response

    @app.exception_handler(Exception)
    async def crashed(request: Request, error: Exception) -> JSONResponse:
        return _respond(transport_error(500, "something went wrong here; it is in the log"))

    return app


def _methods_of(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that any route accepts for the path of a request."""
    found = [route for route in app.routes if isinstance(route, routing.Route)]
    there = [route for route in found if route.matches(request.scope)[0] is not routing.Match.NONE]
    return {method for route in there for method in route.methods or ()}


async def _body(request: Request) -> Result[Any, ActionError]:
    """Read the body as JSON, up to its maximum length."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is longer than {MAX_BODY} bytes")
    return read_json(bytes(body))


def _respond(given: Answer) -> JSONResponse:
    status, body = given
    return JSONResponse(body, int(status))
