"""The server: an application that gives signed requests to a runner.

It trusts only the signature. It has its own folders of modules, and the runner's boundary checks each request again,
with the server's profile.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from returns.result import Failure

from actionengine import Actor, Tenant
from actionengine.boundary.boundary import validate_module
from actionengine.boundary.capabilities import Capability
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.runner import Runner, RunnerResult
from actionengine.errors import ActionError, ErrorCode
from examples.http_runner.signing import Refused, Verifier

MAX_BODY_BYTES = 8 * 1024**2
"""Bytes of a request."""

MAX_TIMEOUT = 3600.0
"""Seconds that work may ask for."""


class Module(BaseModel):
    """A module by its name. A client cannot choose its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=200)
    tenant: Tenant | None = None


class Order(BaseModel):
    """A request as the client sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=100)
    tenant: Tenant | None = None
    module: Module | None = None
    action: str = Field(max_length=200)
    input: dict[str, Any] = Field(default_factory=dict)
    capabilities: frozenset[Capability] = frozenset()
    actor: Actor | None = None
    timeout: float = Field(gt=0, le=MAX_TIMEOUT)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=200)

    def request(self, roots: ModuleRoots) -> ExecutionRequest:
        """Return the request with the server's folder of its module. Raises `BoundaryError`."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "module"}
        named = self.module
        placeless = None if named is None else ModuleContext(id=named.id, root=Path(), tenant=named.tenant)
        asked = ExecutionRequest(**fields, module=placeless)
        module = validate_module(asked)
        assert module.tenant is not None  # it has been checked
        return asked.model_copy(update={"module": roots.context(module.tenant, module.id)})


def create_app(runner: Runner, roots: ModuleRoots, verifier: Verifier) -> FastAPI:
    """Return a server that executes signed requests with a runner, in the modules at these roots."""
    app = FastAPI(title="Runner", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/executions")
    async def execute(request: Request) -> JSONResponse:
        body = await _body(request)
        if body is None:
            return _refused(413, ErrorCode.INVALID_INPUT, f"the request is longer than {MAX_BODY_BYTES} bytes")
        try:
            verifier.check(request.method, request.url.path, request.headers, body)
        except Refused as refusal:
            return _refused(401, ErrorCode.UNAUTHENTICATED, str(refusal))
        try:
            asked = Order.model_validate(from_json(body)).request(roots)
        except ActionError as refusal:
            return _answered(Failure(refusal))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return _refused(400, ErrorCode.INVALID_INPUT, f"this is no request: {where}: {first['msg']}")
        except ValueError:
            return _refused(400, ErrorCode.INVALID_INPUT, "this is no JSON")
        answer = await _executed(runner, asked, request)
        return _answered(answer) if answer is not None else JSONResponse(None, 499)

    return app


async def _executed(runner: Runner, asked: ExecutionRequest, request: Request) -> RunnerResult | None:
    """Return the answer; None after the client has gone and the work has ended."""
    work = asyncio.ensure_future(runner.execute_async(asked))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes | None:
    """Read the body up to its maximum length; return None for a longer one."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _answered(answer: RunnerResult) -> JSONResponse:
    if isinstance(answer, Failure):
        error = answer.failure()
        return JSONResponse({"error": error.to_dict()}, error.code.http_status)
    return JSONResponse({"result": answer.unwrap().model_dump(mode="json")})


def _refused(status: int, code: ErrorCode, message: str) -> JSONResponse:
    return JSONResponse({"error": ActionError(code, message).to_dict()}, status)
