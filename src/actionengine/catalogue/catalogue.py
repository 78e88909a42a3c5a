"""The catalogue of an engine: its actions described, and those of them that an actor may execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from returns.result import Failure, Result, Success

from actionengine.authorization.port import Authorizer
from actionengine.catalogue.descriptions import ActionDescription, check_examples, describe
from actionengine.catalogue.permissions import Permission, Permissions
from actionengine.concurrency.run_sync import Mode
from actionengine.context import RequestContext
from actionengine.errors import ActionError
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.routing import Plans, no_service, route


class Catalogue:
    """Answers `engine.can` and `engine.catalogue`."""

    def __init__(self, plans: Plans, authorizer: Authorizer) -> None:
        """Raises `ConfigurationError` for an example of an action that does not validate."""
        self._plans = plans
        self._permissions = Permissions(authorizer)
        self._described: dict[str, tuple[tuple[ActionPlan, ActionDescription], ...]] = {}
        for actions in plans.values():
            for plan in actions.values():
                check_examples(plan)

    def descriptions(self) -> Mapping[str, tuple[ActionDescription, ...]]:
        """Return the descriptions of all actions, by service."""
        return {name: tuple(item for _, item in self._describe(name)) for name in self._plans}

    async def can(
        self, context: RequestContext, actions: Iterable[tuple[str, str]], resource: str | None, mode: Mode
    ) -> Result[tuple[Permission, ...], ActionError]:
        """Return the permission of the context's actor for each action; an unknown one is `not_found`."""
        plans: list[ActionPlan] = []
        for service, action in actions:
            plan = route(self._plans, service, action)
            if not isinstance(plan, ActionPlan):
                return Failure(plan)
            plans.append(plan)
        try:
            return Success(tuple(await self._permissions.can(plans, context, resource, mode)))
        except ActionError as error:
            return Failure(error.without_traceback())

    async def list(
        self, context: RequestContext, services: Iterable[str] | None, mode: Mode
    ) -> Result[tuple[ActionDescription, ...], ActionError]:
        """Return the descriptions of the actions that the context's actor may execute on at least one resource."""
        names = self._plans if services is None else (services,) if isinstance(services, str) else services
        described: list[tuple[ActionPlan, ActionDescription]] = []
        for name in dict.fromkeys(names):
            if name not in self._plans:
                return Failure(no_service(self._plans, name))
            described += self._describe(name)
        try:
            decisions = await self._permissions.decide([plan for plan, _ in described], context, None, mode)
        except ActionError as error:
            return Failure(error.without_traceback())
        found = zip(described, decisions, strict=True)
        return Success(tuple(description for (_, description), decision in found if decision.allowed))

    def _describe(self, service: str) -> tuple[tuple[ActionPlan, ActionDescription], ...]:
        """Return the actions of a service with their descriptions, made on the first call: creating an engine takes no
        longer for them."""
        described = self._described.get(service)
        if described is None:
            made = tuple((plan, describe(plan)) for plan in self._plans[service].values())
            described = self._described.setdefault(service, made)
        return described
