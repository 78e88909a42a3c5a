"""Roles in code: the host's token names the roles of an actor."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from actionengine.authorization.port import AccessRequest, Decision
from actionengine.authorization.rules import Role, decide, decide_without_roles, needs_roles


class StaticAuthorizer:
    """An authorizer by `Actor.roles` and `Actor.permissions`: `StaticAuthorizer({"csr": Role(allow=["jobs.*"])})`."""

    def __init__(self, roles: Mapping[str, Role] | None = None) -> None:
        self._roles = MappingProxyType(dict(roles or {}))
        if starred := [name for name in self._roles if "*" in name]:
            raise ValueError(f"a role is named in full; {starred[0]!r} has a * in it")

    def authorize(self, request: AccessRequest) -> Decision:
        """Return the decision."""
        return decide(request, (), self._roles) if needs_roles(request) else decide_without_roles(request)
