"""Stages 2, 10 and 14: the guard, the handler, the calls that follow the commit, the global after handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from returns.result import Success

from actionengine.action_context import ActionContext
from actionengine.errors import ActionError
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.payload import Limits
from actionengine.pipeline.plan import is_async
from actionengine.pipeline.user_code import call_sync, call_user_code, log_crash, logger, unwrap
from actionengine.pipeline.validation import try_accept_payload

ContextFor = Callable[[Execution], ActionContext]


class Handlers:
    """Calls the handler of an action, and the two global handlers.

    `context_for` makes the context that a handler gets.
    """

    def __init__(
        self,
        limits: Limits,
        context_for: ContextFor,
        before: Callable[..., Any] | None,
        after: Callable[..., Any] | None,
    ) -> None:
        self._limits = limits
        self._context_for = context_for
        self._before = before
        self._before_is_async = before is not None and is_async(before)
        self._after = after
        self._after_is_async = after is not None and is_async(after)

    async def guard(self, execution: Execution) -> None:
        """Run stage 2, the global before handler, on a copy of the payload. Raises the `ActionError` it returns."""
        what = "the global before handler"
        assert self._before is not None
        try_accept_payload(execution, self._limits)
        payload = execution.received.copy().value if execution.received else execution.payload
        arguments = (execution.plan.action, payload, execution.request)
        unwrap(
            execution,
            what,
            await call_user_code(execution, None, what, self._before, self._before_is_async, *arguments),
        )

    async def handler(self, execution: Execution) -> None:
        """Run stage 10. Raises the `ActionError` that the handler returned, or `handler_error`."""
        plan = execution.plan
        handler = plan.action.handler
        arguments = (execution.data, self._context_for(execution)) if plan.takes_context else (execution.data,)
        if plan.is_sync_and_async:
            returned = await handler(*arguments)
        elif execution.mode == "sync" and execution.deadline is None and not plan.is_async:
            returned = call_sync(execution, "the handler", handler, *arguments)
        else:
            # Open it now: a handler that is abandoned at its deadline must not open one afterwards.
            unit_of_work = execution.open()
            try:
                returned = await call_user_code(
                    execution, unit_of_work, "the handler", handler, plan.is_async, *arguments
                )
            except BaseExceptionGroup:
                # A task group wraps the exception that unwinds through it.
                if execution.root.approval_needed is None:
                    raise
                raise execution.root.approval_needed from None
        execution.value = unwrap(execution, "the handler", returned)

    async def follow_commit(self, execution: Execution) -> None:
        """Run the calls that wait for the commit. They may block, without a deadline; exceptions are only logged."""
        if execution.mode == "sync":
            _follow_commit(execution)
        else:
            # One thread runs them all: a caller that is cancelled now neither cuts them short nor dequeues them.
            call_it = partial(copy_context().run, _follow_commit, execution)
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, call_it))

    async def after(self, execution: Execution) -> None:
        """Run stage 14, the global after handler. The commit stands, so its errors are only logged."""
        what = "the global after handler"
        assert self._after is not None
        arguments = (execution.plan.action, execution.payload, execution.request, Success(execution.value))
        execution.deadline = None
        try:
            unwrap(
                execution,
                what,
                await call_user_code(execution, None, what, self._after, self._after_is_async, *arguments),
            )
        except ActionError as refusal:
            error = execution.secrets.scrub_error(refusal.without_traceback())
            logger.warning("%s of %s failed: %s (%s)", what, execution.plan.name, error, error.code)


def _follow_commit(execution: Execution) -> None:
    for work in execution.after_commit:
        try:
            work()
        except Exception as error:
            log_crash(execution, "what was to follow the commit", error)
