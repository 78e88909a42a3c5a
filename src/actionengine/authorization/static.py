"""Roles in code: the host's token names the roles of an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from actionengine.authorization.cache import BoundedCache
from actionengine.authorization.port import AccessRequest, Decision
from actionengine.authorization.rules import HeldRoles, Role, by_actor, decide_all, decide_without_roles, needs_roles
from actionengine.context import Actor

_CACHE_BYTES = 4 * 1024 * 1024
"""Estimated memory of the combinations of roles that an authorizer keeps."""


class StaticAuthorizer:
    """An authorizer by `Actor.roles` and `Actor.permissions`: `StaticAuthorizer({"csr": Role(allow=["jobs.*"])})`."""

    def __init__(self, roles: Mapping[str, Role] | None = None) -> None:
        self._roles = MappingProxyType(dict(roles or {}))
        if starred := [name for name in self._roles if "*" in name]:
            raise ValueError(f"a role is named in full; {starred[0]!r} has a * in it")
        self._held: BoundedCache[HeldRoles] = BoundedCache(_CACHE_BYTES)

    def authorize(self, request: AccessRequest) -> Decision:
        """Return the decision."""
        if not needs_roles(request):
            return decide_without_roles(request)
        return self._held_by(request.actor).decide(request)

    def authorize_many(self, requests: Sequence[AccessRequest]) -> list[Decision]:
        """Return the decision on each request."""
        return [
            decision for asked in by_actor(requests) for decision in decide_all(asked, self._held_by(asked[0].actor))
        ]

    def _held_by(self, actor: Actor) -> HeldRoles:
        held = self._held.find(actor.roles)
        if held is None:
            held = HeldRoles(actor.roles, self._roles)
            self._held.keep(actor.roles, held, held.size + sum(len(str(name)) for name in actor.roles))
        return held
