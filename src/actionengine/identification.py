"""The caller of a request: the host's `identify` makes a request context, or refuses. Shared by the entry points."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from returns.primitives.exceptions import UnwrapFailedError

from actionengine.context import RequestContext
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.text.names import shortened

logger = logging.getLogger("actionengine")

_REFUSALS = (ActionError, LookupError, PermissionError, UnwrapFailedError, ValueError)
"""Exceptions by which a host refuses a caller. Any other one is a crash, which is logged with its traceback."""
_DEFAULT_SOURCE = "http"


class CallerUnknown(Exception):
    """`identify` returned None: the caller is not signed in."""


class CallerRefused(Exception):
    """`identify` refused the caller. The reason is in the server's log.

    `code` is that of the host's `ActionError`, such as `unavailable` where it could not look up the tenant; `forbidden`
    for another exception.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code)
        self.code = code


class IdentifyCrashed(Exception):
    """`identify` raised an error that is no refusal, or returned another value. The server's log has it."""


class Identification:
    """Identifies the caller of each request, and remembers nothing of it.

    A context whose source is the default one gets `source`, the name of the entry point.
    """

    def __init__(self, identify: Callable[[Any], Any], source: str, refusals: tuple[type[Exception], ...] = ()) -> None:
        """`refusals` are further exceptions by which a host refuses a caller. Raises `ConfigurationError` for an
        `identify` that cannot be called."""
        if not callable(identify):
            raise ConfigurationError(f"identify is a function that returns a RequestContext, not {identify!r}")
        self._identify = identify
        self._source = source
        self._refusals = (*_REFUSALS, *refusals)
        self._is_async = inspect.iscoroutinefunction(identify) or inspect.iscoroutinefunction(
            getattr(identify, "__call__", None)  # noqa: B004
        )

    async def context_of(self, request: Any, name: str) -> RequestContext:
        """Return the context of a request; log lines call it `name`.

        Raises `CallerUnknown`, `CallerRefused` or `IdentifyCrashed`, without the text of the host's exception.
        """
        try:
            context = await self._ask(request)
        except Exception as error:
            if not isinstance(error, self._refusals):
                logger.exception("identify raised for %s", name)
                raise IdentifyCrashed from None
            # The text of a `LookupError` is the key that was looked up, such as a token.
            reason = "" if isinstance(error, LookupError) else f": {shortened(error)}"
            logger.warning("identify refused %s with %s%s", name, type(error).__name__, reason)
            raise CallerRefused(_code_of(error)) from None
        if context is None:
            raise CallerUnknown
        if not isinstance(context, RequestContext):
            logger.error("identify returned a %s for %s: it has to return a RequestContext", type(context), name)
            raise IdentifyCrashed
        return replace(context, source=self._source) if context.source == _DEFAULT_SOURCE else context

    async def _ask(self, request: Any) -> Any:
        if self._is_async:
            return await self._identify(request)
        # A `def` may block: it looks up tenants and keys.
        answer = await asyncio.to_thread(self._call, request)
        return await answer if inspect.isawaitable(answer) else answer

    def _call(self, request: Any) -> Any:
        try:
            return self._identify(request)
        except StopIteration:
            # `next` found nothing. No future carries this exception: the request would wait without an end.
            raise LookupError from None


def _code_of(refusal: BaseException) -> ErrorCode:
    if isinstance(refusal, UnwrapFailedError):
        # `engine.resolve_tenant(slug).unwrap()` found no tenant, or no storage.
        refusal = refusal.halted_container.failure()
    if isinstance(refusal, ActionError):
        return refusal.code
    is_unknown = getattr(refusal, "status_code", None) == ErrorCode.UNAUTHENTICATED.http_status
    return ErrorCode.UNAUTHENTICATED if is_unknown else ErrorCode.FORBIDDEN
