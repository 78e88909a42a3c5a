"""The authorizer port: a question about access, and the decision."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, Tenant


class AccessRequest(NamedTuple):
    """The question whether an actor may do something, asked before any input is read.

    The actor needs one of the roles `access_control` (any, if empty) and the `permission` (none, if None). `resource`
    is the one object of the question. While `resource_is_pending` is set, the same question will be asked once more
    with the resource: answer the parts that depend on it then, and refuse now only what is refused for every resource.
    """

    tenant: Tenant
    actor: Actor
    action: str
    access_control: tuple[str, ...]
    permission: str | None
    resource: str | None
    resource_is_pending: bool
    mode: Mode


class Decision(NamedTuple):
    """An answer, and its reason for the action log."""

    allowed: bool
    reason: str


class Authorizer(Protocol):
    """A policy of access. An exception counts as a refusal."""

    def authorize(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """Return the decision, or an awaitable of it."""
