"""Whose an event is: the tenant of the id that it carries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

from actionengine.authorization.cache import BoundedCache
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.port import Storage

logger = logging.getLogger("actionengine")

TenantOf = Callable[[UUID], Tenant]

_MAX_CACHED_TENANTS = 10_000
"""Tenants that are remembered, those that were asked for last."""


class Tenants:
    """The tenants of events, by id: `tenant_of` where a host has a directory of its own, or those of the storage.

    One that the storage does not know (a deleted one, say) gets its id as its slug, and is looked up each time.
    """

    def __init__(self, storage: Storage, tenant_of: TenantOf | None = None) -> None:
        self._storage = storage
        self._tenant_of = tenant_of
        self._known: BoundedCache[Tenant] = BoundedCache(_MAX_CACHED_TENANTS)

    async def find(self, id: UUID, mode: Mode) -> Tenant:
        """The tenant of this id. Raises `StorageError`, and `ActionError(internal)` where `tenant_of` raises or
        gives another tenant."""
        if self._tenant_of is not None:
            return _looked_up(id, self._tenant_of)
        known = self._known.find(id)
        if known is not None:
            return known
        found = await self._storage.find_tenant_by_id(id, mode)
        if found is None:
            return Tenant(id, str(id))
        self._known.keep(id, found, 1)
        return found


def _looked_up(id: UUID, tenant_of: TenantOf) -> Tenant:
    try:
        tenant = tenant_of(id)
    except Exception as error:
        logger.exception("tenant_of(%s) raised", id)
        raise ActionError(ErrorCode.INTERNAL, f"tenant_of({id}) raised {type(error).__name__}") from None
    if not isinstance(tenant, Tenant) or tenant.id != id:
        raise ActionError(ErrorCode.INTERNAL, f"tenant_of({id}) gave {tenant!r}, which is not that tenant")
    return tenant
