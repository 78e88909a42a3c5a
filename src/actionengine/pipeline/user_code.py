"""Calls into user code: handlers, hooks, guards, conditions. No call can crash its execution or outlast it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable
from math import inf
from time import perf_counter
from typing import Any

from returns.result import Failure, Success

from actionengine.concurrency.abandonable import AbandonableCall, def_in_threads
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.execution import Execution
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable
from actionengine.storage.port import UnitOfWork

logger = logging.getLogger("actionengine")


def call_sync(execution: Execution, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a `def` in sync mode without a deadline, and return its value. Raises as `call_user_code` does."""
    try:
        value = function(*arguments)
    except Exception as error:
        raise to_action_error(execution, what, error) from None
    if not isinstance(value, Success) and inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise _needs_event_loop_error(execution, what)
    return value


async def call_user_code(
    execution: Execution,
    unit_of_work: UnitOfWork | None,
    what: str,
    function: Callable[..., Any],
    is_async: bool,
    *arguments: Any,
) -> Any:
    """Run user code, and return its value.

    Raises the `ActionError` that the code raised; `handler_error` for any other exception; `timeout` past the
    execution's deadline; `internal` for a coroutine without an event loop, and for a misuse of the storage. Errors that
    end the transaction, and exceptions that are no `Exception`, pass.
    """
    if execution.mode == "sync":
        if is_async:
            raise _needs_event_loop_error(execution, what)
        if execution.deadline is None:
            return call_sync(execution, what, function, *arguments)
        if execution.root.mode == "sync":
            function, arguments = (await _call_in_thread(execution, function, arguments)).result, ()
        # Inside a `def` handler of an async execution, the call stays in the handler's thread and is abandoned with it.
        value = call_sync(execution, what, function, *arguments)
    else:
        try:
            if is_async:
                value = await _await(execution, function(*arguments))
            elif execution.deadline is not None or def_in_threads.get():
                work = unit_of_work.for_worker_thread(function) if unit_of_work is not None else function
                value = (await _call_in_thread(execution, work, arguments)).result()
            elif unit_of_work is not None:
                value = await unit_of_work.call(function, *arguments)
            else:
                value = function(*arguments)
            if not isinstance(value, Success) and inspect.isawaitable(value):
                value = await _await(execution, value)
        except Exception as error:
            raise to_action_error(execution, what, error) from None
    check_deadline(execution)
    return value


def to_action_error(execution: Execution, what: str, error: Exception) -> Exception:
    """Return the error for an exception raised by user code. A crash is logged with its traceback."""
    if execution.root.unit_of_work is not None:
        error = execution.root.unit_of_work.translate_error(error)
    if isinstance(error, (ActionError, SerializationFailure, StorageUnavailable)):
        return error
    if execution.root.is_abandoned:
        return timeout_error(execution)
    if isinstance(error, StorageError):
        return ActionError(ErrorCode.INTERNAL, f"{what} of {execution.plan.name}: {error}")
    log_crash(execution, what, error)
    message = f"{what} of {execution.plan.name} raised {type(error).__name__}"
    return ActionError(ErrorCode.HANDLER_ERROR, message, {"action_id": execution.id})


def unwrap(execution: Execution, what: str, returned: Any) -> Any:
    """Return the value of a `Success`. Raises the `ActionError` of a `Failure`, and `internal` for a value that is
    not a `Result`."""
    if isinstance(returned, Success):
        return returned._inner_value
    if isinstance(returned, Failure):
        raise as_action_error(returned._inner_value)
    given = "None" if returned is None else f"a bare {type(returned).__name__}"
    raise ActionError(
        ErrorCode.INTERNAL,
        f"{what} of {execution.plan.name} returned {given}; it has to return Success(value) or Failure(error)",
    )


def as_action_error(error: Any) -> ActionError:
    """Return the error of a `Failure` as an `ActionError`. A text, or another value, becomes the message of an
    `unprocessable`."""
    if isinstance(error, ActionError):
        copy = error.without_traceback()
        # The frames that a caught error has passed hold the value that it is in: only the garbage collector would free
        # that circle.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return copy
    return ActionError(ErrorCode.UNPROCESSABLE, str(error))


def check_deadline(execution: Execution) -> None:
    """Raise `ActionError(timeout)` past the execution's deadline, or where its transaction was abandoned."""
    if execution.root.is_abandoned or (execution.deadline is not None and perf_counter() > execution.deadline):
        raise timeout_error(execution)


def timeout_error(execution: Execution) -> ActionError:
    """Return the error for an execution that exceeded its timeout."""
    bounded = execution
    while bounded.parent is not None and bounded.parent.deadline == execution.deadline:
        bounded = bounded.parent
    whose = "its timeout" if bounded is execution else f"the timeout of {bounded.plan.name},"
    preposition = "of " if bounded is execution else ""
    return ActionError(
        ErrorCode.TIMEOUT,
        f"{execution.plan.name} exceeded {whose} {preposition}{bounded.plan.action.timeout or 0:g} s: make the handler "
        f"faster, or raise its timeout",
    )


def log_crash(execution: Execution, what: str, error: BaseException) -> None:
    """Log the traceback, without the execution's secrets."""
    trace = "".join(traceback.format_exception(error))
    logger.error(
        "%s of %s raised (execution %s)\n%s",
        what,
        execution.plan.name,
        execution.id,
        execution.secrets.scrub_text(trace),
    )


async def _await(execution: Execution, awaitable: Any) -> Any:
    if execution.deadline is None:
        return await awaitable
    timer = asyncio.timeout(max(0.0, execution.deadline - perf_counter()))
    try:
        async with timer:
            return await awaitable
    except TimeoutError:
        if timer.expired():
            raise timeout_error(execution) from None
        raise


async def _call_in_thread(
    execution: Execution, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> AbandonableCall:
    """Call a `def` in a thread of its own, and return the finished call.

    Raises `ActionError(timeout)` at the deadline, if there is one. The thread is then abandoned, with the transaction
    that it uses, and also if the caller is cancelled.
    """
    call = AbandonableCall(execution.mode, function, *arguments)
    call.start("actionengine-handler")
    try:
        if not await call.wait(None if execution.deadline is None else execution.remaining(inf)):
            raise timeout_error(execution)
    except BaseException:
        _abandon(execution)
        raise
    return call


def _abandon(execution: Execution) -> None:
    root = execution.root
    if root.unit_of_work is not None:
        root.is_abandoned = not root.unit_of_work.abandon()


def _needs_event_loop_error(execution: Execution, what: str) -> ActionError:
    return ActionError(
        ErrorCode.INTERNAL,
        f"{what} of {execution.plan.name} is async def and needs an event loop: "
        f"use execute_action_async, engine.blocking() where there is no loop, or ctx.execute_async in an async def "
        f"handler",
    )
