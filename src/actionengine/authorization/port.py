"""The authorizer port: a question about access, and the decision."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, Tenant


class AccessRequest(NamedTuple):
    """May this actor do this? Asked before any input is looked at.

    The actor needs one of the roles `access_control` (any, if empty) and the `permission` (none, if None). `resource`
    is the one thing that the question is about. While `resource_is_pending` is set, the same question will be asked
    once more with the resource in it: answer then what depends on it, and refuse now only what is refused for every
    one.
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
    """Allowed or not, and why: the reason goes to the action log."""

    allowed: bool
    reason: str


class Authorizer(Protocol):
    """Decides who may do what. What it raises counts as a refusal."""

    def authorize(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """The decision, or an awaitable of it."""
