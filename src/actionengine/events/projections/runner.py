"""Running: catches up with the projections of many tenants, round after round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from uuid import UUID

from returns.result import Failure

from actionengine.concurrency.backoff import next_delay
from actionengine.context import Tenant
from actionengine.events.consumers.consumer import as_result
from actionengine.events.projections.catch_up import CatchUp
from actionengine.storage.errors import StorageError

logger = logging.getLogger("actionengine")

_MAX_TENANT_TIME = 1.0
"""Seconds of a round that one tenant may take."""

_MAX_RETRY_INTERVAL = 60.0
"""Seconds after which a stopped projection is tried again, at the latest."""


class ProjectionRunner:
    """Catches up with tenants, and leaves those alone for a time whose projection has stopped."""

    def __init__(self, catch_up: CatchUp, tenants: Sequence[Tenant] | None, is_stopping: Callable[[], bool]) -> None:
        self._catch_up = catch_up
        self._tenants = tenants
        self._is_stopping = is_stopping
        self._postponed: dict[UUID, tuple[float, float]] = {}

    async def run_once(self) -> bool:
        """Catch up with each tenant for a while. Return whether there were events."""
        found = False
        try:
            for tenant in await self._catch_up.tenants() if self._tenants is None else self._tenants:
                if self._is_stopping():
                    break
                if not self._is_postponed(tenant):
                    found = await self._run_tenant(tenant) or found
        except StorageError as error:
            name = self._catch_up.definition.name
            logger.warning("the projection %s cannot list the tenants; it tries again soon: %s", name, error)
        return found

    async def _run_tenant(self, tenant: Tenant) -> bool:
        ends_at = monotonic() + _MAX_TENANT_TIME
        answer = await as_result(self._catch_up.run(tenant, lambda: self._is_stopping() or monotonic() > ends_at))
        if isinstance(answer, Failure):
            seconds = self._postpone(tenant)
            logger.error("%s (tenant %s); it tries again in %g s", answer.failure(), tenant.slug, seconds)
            return False
        self._postponed.pop(tenant.id, None)
        return answer.unwrap() > 0

    def _is_postponed(self, tenant: Tenant) -> bool:
        _, until = self._postponed.get(tenant.id, (0.0, 0.0))
        return until > monotonic()

    def _postpone(self, tenant: Tenant) -> float:
        """Leave a tenant alone for twice as long as before. Return the seconds."""
        before, _ = self._postponed.get(tenant.id, (0.5, 0.0))
        seconds = next_delay(before, _MAX_RETRY_INTERVAL)
        self._postponed[tenant.id] = seconds, monotonic() + seconds
        return seconds
