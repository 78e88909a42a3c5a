"""The caller of a request, as the host identifies it, and the actions that it may execute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from returns.result import Failure
from starlette.exceptions import HTTPException
from starlette.requests import Request

from actionengine.console.errors import ErrorPage, error_page
from actionengine.console.visit import Visit, split
from actionengine.context import RequestContext
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.identification import CallerRefused, CallerUnknown, Identification, IdentifyCrashed
from actionengine.text.names import shortened

SOURCE = "console"
"""The source of a request whose context names none of its own."""

Identify: TypeAlias = Callable[[Request], "RequestContext | Awaitable[RequestContext | None] | None"]
"""Makes the request context of a request; None for a caller that is not signed in. An exception refuses the request;
its text stays on the server."""


class Callers:
    """Identifies the callers of requests. `actions` are those of the console, as `service.action`."""

    def __init__(self, engine: Engine, identify: Identify, actions: Iterable[str]) -> None:
        self._engine = engine
        self._identification = Identification(identify, SOURCE, (HTTPException,))
        self._actions = tuple(dict.fromkeys(actions))

    async def visit_of(self, request: Request) -> Visit:
        """Return the visit of an identified actor. Raises `ErrorPage` for another caller, and `ActionError` where its
        rights cannot be read."""
        context = await self._identify(request)
        if context.actor is None:
            raise _refused(ErrorCode.UNAUTHENTICATED)
        answer = await self._engine.can_each(context, map(split, self._actions), None, "async")
        if isinstance(answer, Failure):
            raise answer.failure()
        permissions = zip(self._actions, answer.unwrap(), strict=True)
        may = frozenset(action for action, permission in permissions if permission.allowed)
        return Visit(self._engine, request, context, may)

    async def _identify(self, request: Request) -> RequestContext:
        try:
            return await self._identification.context_of(request, f"the console's {shortened(request.scope['path'])!r}")
        except CallerUnknown:
            raise _refused(ErrorCode.UNAUTHENTICATED) from None
        except CallerRefused as refusal:
            raise _refused(refusal.code) from None
        except IdentifyCrashed:
            raise ErrorPage(500, "The page failed", "The application could not identify you.") from None


def _refused(code: ErrorCode) -> ErrorPage:
    """Return the page for a caller that `identify` refused."""
    if code is ErrorCode.UNAUTHENTICATED:
        return ErrorPage(401, "Sign in first", "The application does not know who you are.")
    if code is ErrorCode.UNAVAILABLE:
        return error_page(ActionError(code, "The application could not identify you."))
    return ErrorPage(403, "You have no access", "The application refused your request.")
