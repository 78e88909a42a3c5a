"""What inboxes and projections share: an execution that is no declared action, and answers instead of exceptions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from returns.result import Failure, Result

from actionengine.actions import create_action, create_service
from actionengine.errors import ActionError, ConfigurationError, ErrorCode, storable_text
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.user_code import as_action_error
from actionengine.storage.port import StorageError, StorageUnavailable

T = TypeVar("T")

MAX_CONSUMER_NAME_LENGTH = 100
"""Characters of the name of a consumer or a projection: it is part of ids."""


def validate_name(what: str, name: str) -> str:
    """The name of a consumer or a projection. Raises `ConfigurationError` for one that could not stand in an id."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_CONSUMER_NAME_LENGTH or storable_text(name) != name:
        raise ConfigurationError(f"{what} has a name of 1 to {MAX_CONSUMER_NAME_LENGTH} characters, not {name!r}")
    if "." in name or "/" in name:
        raise ConfigurationError(f"the name of {what} has no dot and no slash in it: {name!r}")
    return name


def consumer_plan(service: str, name: str, handler: Callable[..., Any]) -> ActionPlan:
    """A plan for `Engine.execute_consumer`. It yields no event of its own, and asks no authorizer: the host's code runs
    it."""
    action = create_action(
        name=name, description=f"Consumes events: {name}", handler=handler, is_protected=False, idempotency="none"
    )
    plan = ActionPlan(create_service(name=service, description="Consumers of events", actions=[action]), action)
    plan.emits_no_default_event = plan.is_internal = True
    return plan


def check_returned(what: str, returned: Any) -> None:
    """Let pass what a consuming function may return: None, or a `Result`. Raises `ActionError` for a `Failure`,
    and `TypeError` for what has to be awaited."""
    if isinstance(returned, Failure):
        raise as_action_error(returned.failure())
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(f"{what} is a def, and returned something to await: make it an async def")


async def as_result(work: Awaitable[Result[T, ActionError]]) -> Result[T, ActionError]:
    """The answer of this work; what the storage or a look-up raised on the way, as a `Failure`."""
    try:
        return await work
    except ActionError as refusal:
        return Failure(refusal.without_traceback())
    except StorageUnavailable:
        return Failure(ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable, try again later"))
    except StorageError as error:
        return Failure(ActionError(ErrorCode.INTERNAL, f"the storage cannot be used: {error}"))
