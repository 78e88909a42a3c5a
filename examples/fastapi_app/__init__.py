"""The business behind FastAPI: an asynchronous host."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from returns.result import Failure, Result
from starlette.exceptions import HTTPException

from actionengine import ActionError, RequestContext, Storage
from examples.field_service.app import create_business
from examples.field_service.transport import (
    MAX_BODY,
    Answer,
    answer,
    describe,
    request_context,
    slug_of,
    transport_error,
)


def create_app(storage: Storage | None = None) -> FastAPI:
    """A FastAPI application on a storage, in memory by default."""
    app = FastAPI(title="Field service")
    engine = create_business(storage)

    async def context(request: Request) -> Result[RequestContext, ActionError]:
        slug = slug_of(request.headers)
        if isinstance(slug, Failure):
            return slug
        tenant = await engine.resolve_tenant_async(slug.unwrap())
        return tenant.bind(lambda found: request_context(request.headers, found))

    @app.post("/api/{service}/{action}")
    async def execute(service: str, action: str, request: Request) -> JSONResponse:
        payload = await _json_body(request)
        ctx = await context(request)
        if isinstance(ctx, Failure):
            return _respond(answer(ctx))
        return _respond(answer(await engine.execute_action_async(service, action, payload, ctx.unwrap())))

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

    @app.get("/health")
    async def health() -> JSONResponse:
        return _respond((200, {"data": "ok"}))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _respond(transport_error(error.status_code, str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _respond(transport_error(400, "the request cannot be read"))

    return app


async def _json_body(request: Request) -> Any:
    """The body as JSON, read no further than it may be long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is longer than {MAX_BODY} bytes")
    request._body = bytes(body)
    try:
        return await request.json() if body else {}
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None


def _respond(given: Answer) -> JSONResponse:
    status, body = given
    return JSONResponse(body, int(status))
