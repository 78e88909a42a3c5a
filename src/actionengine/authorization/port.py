"""The authorizer port: a question about access, and the decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, Self

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, Tenant


class AccessRequest(NamedTuple):
    """The question whether an actor may do something, asked before any input is read. Of an actor that acts for others,
    each actor in its chain is asked about by itself, the acting one first; all of them have to be allowed.

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


class LimitedDecision(Decision):
    """A yes about a pending resource that holds on these `resources` only. The catalogue needs them to know whether all
    actors of a chain are allowed on one and the same resource."""

    resources: frozenset[str]

    def __new__(cls, reason: str, resources: Iterable[str]) -> Self:
        """Return the decision that allows these resources."""
        decision = super().__new__(cls, True, reason)
        names = () if isinstance(resources, str) else tuple(resources)
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"a LimitedDecision takes a collection of the names of resources, such as ['job/17'], not "
                f"{resources!r}; without any resource, return Decision(False, reason)"
            )
        decision.resources = frozenset(names)
        return decision

    def _replace(self, **changes: Any) -> Self:
        replaced = super()._replace(**changes)
        replaced.resources = self.resources
        return replaced

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.resources)


class Authorizer(Protocol):
    """A policy of access. An exception counts as a refusal."""

    def authorize(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """Return the decision, or an awaitable of it."""


class BulkAuthorizer(Authorizer, Protocol):
    """An authorizer that answers many questions at once, for the catalogue. Others are asked one question at a time."""

    def authorize_many(self, requests: Sequence[AccessRequest]) -> Sequence[Decision] | Awaitable[Sequence[Decision]]:
        """Return the decision on each request, in their order, or an awaitable of them. All are of one tenant."""


BulkQuestion = Callable[[Sequence[AccessRequest]], Sequence[Decision] | Awaitable[Sequence[Decision]]]


def bulk_question(authorizer: Authorizer) -> BulkQuestion | None:
    """Return the `authorize_many` of an authorizer that has one. A subclass that overrides only `authorize` is asked
    one question at a time."""
    for kind in type(authorizer).__mro__:
        if "authorize_many" in vars(kind):
            question: BulkQuestion = authorizer.authorize_many  # type: ignore[attr-defined]
            return question
        if "authorize" in vars(kind):
            return None
    return None
