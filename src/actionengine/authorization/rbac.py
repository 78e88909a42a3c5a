"""Roles in storage, per tenant: administered by the built-in service `roles`, and held in a cache."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID

from actionengine.authorization.port import AccessRequest, Decision
from actionengine.authorization.rules import Role, Rule, decide, decide_without_roles, needs_roles
from actionengine.context import Actor, Tenant
from actionengine.storage.port import ROLE_ASSIGNMENTS, ROLES, Mode, Storage
from actionengine.storage.records import MAX_PAGE

_MOST_CACHED = 10_000


@dataclass(slots=True)
class CachedRoles:
    """What is known of one tenant since its roles last changed."""

    stamp: int
    expires: float
    roles: dict[str, Role]
    assignments: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    decisions: dict[Hashable, Decision] = field(default_factory=dict)


class RBACAuthorizer:
    """Decides by the roles that storage assigns to the actor, together with those that the host's token gives it.

    Rules are read once and again after each change in the tenant that this process commits (`Storage.access_stamp`).
    What another process changes is in force here after `max_age` seconds at the latest.
    """

    def __init__(self, storage: Storage, *, max_age: float = 5.0) -> None:
        self._storage = storage
        self._max_age = max_age
        self._cache: dict[UUID, CachedRoles] = {}

    def authorize(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """The decision: at once where the same was asked since the tenant's roles last changed."""
        if not needs_roles(request):
            return decide_without_roles(request)
        cached = self._cached(request.tenant, self._storage.access_stamp(request.tenant.id))
        if cached is not None:
            decision = cached.decisions.get(_question(request))
            if decision is not None:
                return decision
        return self._load_and_decide(request)

    async def _load_and_decide(self, request: AccessRequest) -> Decision:
        stamp = self._storage.access_stamp(request.tenant.id)
        cached = self._cached(request.tenant, stamp)
        if cached is None:
            # As old as its oldest part: the time is taken before anything is read.
            expires = monotonic() + self._max_age
            cached = CachedRoles(stamp, expires, await self._load_roles(request.tenant, request.mode))
            self._cache[request.tenant.id] = cached
        key = (request.actor.type, request.actor.id)
        assigned = cached.assignments.get(key)
        if assigned is None:
            assigned = await self._load_assignments(request.tenant, request.actor, request.mode)
            if len(cached.assignments) >= _MOST_CACHED:
                cached.assignments.clear()
            cached.assignments[key] = assigned
        decision = decide(request, assigned, cached.roles)
        if len(cached.decisions) >= _MOST_CACHED:
            cached.decisions.clear()
        cached.decisions[_question(request)] = decision
        return decision

    def _cached(self, tenant: Tenant, stamp: int) -> CachedRoles | None:
        cached = self._cache.get(tenant.id)
        return cached if cached is not None and cached.stamp == stamp and monotonic() < cached.expires else None

    async def _load_roles(self, tenant: Tenant, mode: Mode) -> dict[str, Role]:
        roles: dict[str, Role] = {}
        unit_of_work = self._storage.unit_of_work(tenant, "", mode, read_only=True)
        try:
            after: str | None = None
            while True:
                page = await unit_of_work.records(ROLES).list(limit=MAX_PAGE, after=after)
                roles.update({record.id: role_of(record.data) for record in page})
                if len(page) < MAX_PAGE:
                    break
                after = page[-1].id
        finally:
            await unit_of_work.rollback()
        return roles

    async def _load_assignments(self, tenant: Tenant, actor: Actor, mode: Mode) -> tuple[str, ...]:
        unit_of_work = self._storage.unit_of_work(tenant, "", mode, read_only=True)
        try:
            record = await unit_of_work.records(ROLE_ASSIGNMENTS).get(str(actor))
        finally:
            await unit_of_work.rollback()
        return tuple(record.data["roles"]) if record else ()


def _question(request: AccessRequest) -> Hashable:
    """All that a decision depends on, beside the tenant's roles."""
    actor = request.actor
    rights = (actor.type, actor.id, actor.roles, actor.permissions)
    return rights, request.access_control, request.permission, request.resource, request.resource_follows


def role_of(document: dict[str, Any]) -> Role:
    """A role from its document: `{"allow": [{"permission", "resource"}], "deny": […]}`."""
    return Role(
        allow=[Rule(**rule) for rule in document["allow"]],
        deny=[Rule(**rule) for rule in document["deny"]],
    )
