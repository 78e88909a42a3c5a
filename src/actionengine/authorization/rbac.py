"""Roles in storage, per tenant: administered by the built-in service `roles`, and cached."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from actionengine.authorization.cache import BoundedCache, Entry
from actionengine.authorization.port import AccessRequest, Decision, LimitedDecision
from actionengine.authorization.rules import (
    HeldRoles,
    Role,
    Rule,
    by_actor,
    decide_all,
    decide_without_roles,
    needs_roles,
)
from actionengine.context import Actor
from actionengine.storage.port import Storage
from actionengine.storage.records import ROLE_ASSIGNMENTS, ROLES, AsyncRecords, is_id
from actionengine.storage.rows import Record

CACHE_BYTES = 16 * 1024 * 1024
"""Estimated memory that an authorizer uses for all tenants together."""

_ENTRY_BYTES = 600


class AssignedRoles(NamedTuple):
    """The names of the roles that storage assigns to an actor, and those of its roles that are defined."""

    names: tuple[str, ...]
    roles: dict[str, Role]


class RBACAuthorizer:
    """An authorizer by the roles that storage assigns to the actor, together with those of the host's token.

    It reads an actor's rules once, and again after each change of the tenant's roles that this process commits
    (`Storage.access_version`). Changes of other processes take effect within `max_age` seconds. One cache of 16 MiB
    serves all tenants.
    """

    def __init__(self, storage: Storage, *, max_age: float = 5.0) -> None:
        self._storage = storage
        self._max_age = max_age
        self._decisions: BoundedCache[Decision] = BoundedCache(CACHE_BYTES // 2, "decisions")
        self._held: BoundedCache[HeldRoles] = BoundedCache(CACHE_BYTES // 2, "roles")

    @property
    def cached_bytes(self) -> int:
        """Return the estimated memory of the cache."""
        return self._decisions.size + self._held.size

    def authorize(self, request: AccessRequest) -> Decision | Awaitable[Decision]:
        """Return the decision: at once when it was made since the tenant's roles last changed."""
        if not needs_roles(request):
            return decide_without_roles(request)
        question = _cache_key(request)
        entry = self._decisions.get(question, self._storage.access_version(request.tenant.id))
        return entry.value if entry is not None else self._load_and_decide(request, question)

    async def authorize_many(self, requests: Sequence[AccessRequest]) -> list[Decision]:
        """Return the decision on each request. The roles of an actor are read once, unless they are cached."""
        decisions: list[Decision] = []
        for asked in by_actor(requests):
            needing = next(filter(needs_roles, asked), None)
            if needing is None:
                decisions += map(decide_without_roles, asked)
            else:
                decisions += decide_all(asked, (await self._held_by(needing)).value)
        return decisions

    async def _load_and_decide(self, request: AccessRequest, question: Hashable) -> Decision:
        entry = await self._held_by(request)
        decision = entry.value.decide(request)
        size = _ENTRY_BYTES + _text_bytes(request) + len(decision.reason)
        if isinstance(decision, LimitedDecision):
            size += sum(64 + 4 * len(resource) for resource in decision.resources)
        self._decisions.put(question, Entry(decision, entry.access_version, entry.expires, size))
        return decision

    async def _held_by(self, request: AccessRequest) -> Entry[HeldRoles]:
        """Return the roles of an actor, cached or read now."""
        access_version = self._storage.access_version(request.tenant.id)
        actor = (request.tenant.id, request.actor.type, request.actor.id, request.actor.roles)
        entry = self._held.get(actor, access_version)
        if entry is None:
            # The time is taken before anything is read: an entry is as old as its oldest part.
            expires = monotonic() + self._max_age
            assigned = await self._load(request)
            held = HeldRoles((*request.actor.roles, *assigned.names), assigned.roles)
            entry = Entry(held, access_version, expires, held.size + _text_bytes(request))
            self._held.put(actor, entry)
        return entry

    async def _load(self, request: AccessRequest) -> AssignedRoles:
        """Return the stored roles of an actor."""
        unit_of_work = self._storage.unit_of_work(request.tenant, "", request.mode, read_only=True)
        try:
            record = await unit_of_work.records(ROLE_ASSIGNMENTS).get(str(request.actor))
            return await load_roles(request.actor, record, unit_of_work.records(ROLES))
        finally:
            await unit_of_work.rollback()


async def load_roles(actor: Actor, assignment: Record | None, roles: AsyncRecords) -> AssignedRoles:
    """Return the roles of an actor with this document of its assignments.

    A document also names the id of each role. So a deleted role is assigned to no actor, whatever the document says,
    and neither is a new role of the same name.
    """
    names = [] if assignment is None else assignment.data["roles"]
    ids = {} if assignment is None else assignment.data.get("role_ids", {})
    # A host's token may contain names that no role can have.
    read = [await roles.get(name) for name in sorted({*filter(is_id, actor.roles), *names})]
    found = {record.id: record for record in read if record is not None}
    held = [name for name in names if name not in ids or (name in found and found[name].data.get("id") == ids[name])]
    rules = {name: to_role(found[name].data) for name in (*actor.roles, *held) if name in found}
    return AssignedRoles(tuple(held), rules)


def _cache_key(request: AccessRequest) -> Hashable:
    """Return everything that a decision depends on, except the tenant's roles."""
    actor = request.actor
    rights = (actor.type, actor.id, actor.roles, actor.permissions)
    return (
        request.tenant.id.int,  # Its hash is faster than that of the UUID.
        rights,
        request.access_control,
        request.permission,
        request.resource,
        request.resource_is_pending,
    )


def _text_bytes(request: AccessRequest) -> int:
    """Return the estimated bytes of the caller's texts in a key of the cache, at up to 4 bytes a character."""
    actor = request.actor
    texts = (actor.id, request.resource or "", *actor.roles, *actor.permissions)
    return 4 * sum(map(len, texts)) + 64 * len(texts)


def to_role(document: dict[str, Any]) -> Role:
    """Return a role from its document: `{"allow": [{"permission", "resource"}], "deny": […]}`."""
    return Role(
        allow=[Rule(**rule) for rule in document["allow"]],
        deny=[Rule(**rule) for rule in document["deny"]],
    )
