"""The catalogue of an engine: its actions described, and those of them that an actor may execute."""

from __future__ import annotations

from collections.abc import Iterable

from returns.result import Failure, Result, Success

from actionengine.authorization.port import Authorizer
from actionengine.catalogue.descriptions import ActionDescription, describe
from actionengine.catalogue.permissions import Permission, Permissions
from actionengine.concurrency.run_sync import Mode
from actionengine.context import RequestContext
from actionengine.errors import ActionError
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.routing import Plans, no_service, route


class Catalogue:
    """Answers `engine.can` and `engine.catalogue`. Making it checks the examples of all actions."""

    def __init__(self, plans: Plans, authorizer: Authorizer) -> None:
        self._plans = plans
        self._permissions = Permissions(authorizer)
        self._descriptions = {
            service: tuple((plan, describe(plan)) for plan in actions.values()) for service, actions in plans.items()
        }

    async def can(
        self, context: RequestContext, service: str, action: str, resource: str | None, mode: Mode
    ) -> Result[Permission, ActionError]:
        """Return the permission of the context's actor, or `not_found` for an unknown action."""
        plan = route(self._plans, service, action)
        if not isinstance(plan, ActionPlan):
            return Failure(plan)
        try:
            return Success(await self._permissions.can(plan, context, resource, mode))
        except ActionError as error:
            return Failure(error.without_traceback())

    async def list(
        self, context: RequestContext, services: Iterable[str] | None, mode: Mode
    ) -> Result[tuple[ActionDescription, ...], ActionError]:
        """Return the descriptions of the actions that the context's actor may execute on at least one resource."""
        names = self._descriptions if services is None else (services,) if isinstance(services, str) else services
        described: list[tuple[ActionPlan, ActionDescription]] = []
        for name in dict.fromkeys(names):
            if name not in self._descriptions:
                return Failure(no_service(self._plans, name))
            described += self._descriptions[name]
        try:
            plans = [plan for plan, _ in described]
            decisions = await self._permissions.decide(plans, context, None, mode)
        except ActionError as error:
            return Failure(error.without_traceback())
        allowed = zip(described, decisions, strict=True)
        return Success(tuple(description for (_, description), decision in allowed if decision.allowed))
