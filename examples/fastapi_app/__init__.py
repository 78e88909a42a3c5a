"""The business behind FastAPI: an asynchronous host."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from actionengine import ActionError, RequestContext
from actionengine.http import BodyLimit, HTTPRoute, RequestRefused, action_routes, by_path, payload_of, to_response
from examples.fastapi_app.documentation import Key, body_annotation, docs
from examples.field_service.app import HostStorage, create_business
from examples.field_service.background import running
from examples.field_service.discovery import DISCOVERY, discover
from examples.field_service.feed import FEED_HEADERS, HEARTBEAT_INTERVAL, asked_of, open_feed_async
from examples.field_service.gateway import context_of, slug_of
from examples.field_service.operators import console_with_demo_login
from examples.field_service.routes import ROUTES


def create_app(
    storage: HostStorage, *, relay: bool = True, workflows: str | None = None, heartbeat: float = HEARTBEAT_INTERVAL
) -> FastAPI:
    """Return a FastAPI application on a storage, which it closes. Live feeds end when `app.state.stopping` is set."""
    engine, stopping = create_business(storage), asyncio.Event()
    app = FastAPI(title="Field service", strict_content_type=False, lifespan=running(storage, engine, relay, workflows))
    app.state.stopping = stopping
    app.add_middleware(BodyLimit)
    app.mount("/console", console_with_demo_login(engine))

    async def context(request: Request) -> RequestContext:
        return context_of(request.headers, await engine.resolve_tenant_async(slug_of(request.headers)))

    def act(call: Any, routes: dict[str, HTTPRoute]) -> Any:
        payload: Any = body_annotation(engine, routes)

        async def view(request: Request, data: payload, idempotency_key: Key = None) -> Response:
            ctx, query, route = await context(request), request.query_params, routes[request.method]
            return _respond(await call(route.service, route.action, payload_of(request.path_params, query, data), ctx))

        return view

    for path, routes in by_path([*action_routes(engine), *ROUTES]).items():
        app.add_api_route(path, act(engine.execute_action_async, routes), **docs(engine, routes))
    for path, routes in by_path(action_routes(engine)).items():
        preview = act(engine.preview_async, routes)
        app.add_api_route(f"{path}/preview", preview, methods=["POST"], include_in_schema=False)

    async def services(request: Request) -> Response:
        await context(request)
        return _respond(discover(engine, **request.path_params))

    for path in DISCOVERY:
        app.add_api_route(path, services, include_in_schema=False)

    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        asked = asked_of(request.query_params, request.headers)
        messages = await open_feed_async(engine, await context(request), asked, stopping, heartbeat)
        return StreamingResponse(messages, headers=FEED_HEADERS)

    app.add_api_route("/health", lambda: {"data": "ok"})

    async def fail(request: Request, error: Any) -> Response:
        if isinstance(error, HTTPException):
            return _respond(RequestRefused(error.status_code, error.detail), error.headers or {})
        if isinstance(error, RequestValidationError):
            return _respond(RequestRefused(400, "the body is not JSON"))
        return _respond(error if isinstance(error, ActionError) else RequestRefused(500))

    for kind in (ActionError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, fail)
    return app


def _respond(answer: Any, headers: Any = ()) -> Response:
    response = to_response(answer)
    return Response(response.body, response.status, {**response.headers, **dict(headers)})
