"""`Subscriptions`: events that trigger actions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from returns.result import Failure

from actionengine.context import Actor, RequestContext
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError
from actionengine.event_types import EventType, EventVersionError
from actionengine.events.consumers.consumer import TenantOf, Tenants
from actionengine.events.event import Event
from actionengine.events.publishers.fanout import combined
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable, failed_action
from actionengine.storage.errors import StorageUnavailable

logger = logging.getLogger("actionengine")

ActorOf = Callable[[Event], Actor]
PayloadOf = Callable[[Event], Any]

_ACTORS = ("workflow", "integration")


@dataclass(frozen=True, slots=True)
class Subscription:
    """An action that events of a type trigger, with its actor and its payload."""

    type: str
    service: str
    action: str
    actor: Actor | ActorOf
    payload: PayloadOf | None
    source: str


class Subscriptions:
    """Executes actions for events. It is a publisher: pass it to a relay.

    Each action is executed like any other, with the event's id as its idempotency key, so that an event that is
    delivered again takes effect once. Keys expire after `Limits.idempotency_ttl` (24 hours by default): an older dead
    letter executes again. An action without keys (`idempotency="none"`) executes with each delivery.

    The error of a failed action decides on the event. After `unavailable` the relay waits, and counts no attempt. After
    an error that may pass (`conflict`, `timeout`, `handler_error`, …) the event is tried again. Any other error
    (`invalid_input`, `forbidden`, `not_found`, `unprocessable`, …) makes a dead letter immediately. An action that
    waits for an approval counts as delivered, since the approval holds it. If one of several actions of an event fails,
    the next attempt executes all of them, and those that succeeded answer from their keys.

    Actions run in the event loop of the relay, also those with `def` handlers. Give an action that may block a
    `timeout`: it then runs in a thread of its own.

    Args:
        engine: executes the actions; its event types upcast old payloads to their newest versions.
        concurrency: the number of events whose actions execute at once.
        tenant_of: the tenant of an id, for a host with a tenant directory of its own.
    """

    batch_size = 1

    def __init__(self, engine: Engine, *, concurrency: int = 1, tenant_of: TenantOf | None = None) -> None:
        if not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigurationError(f"concurrency must be 1 or more, not {concurrency!r}")
        self.concurrency = concurrency
        self._engine = engine
        self._tenants = Tenants(engine.storage, tenant_of)
        self._subscriptions: dict[str, list[Subscription]] = defaultdict(list)

    def subscribe(
        self,
        type: str | EventType,
        action: str,
        *,
        actor: Actor | ActorOf,
        payload: PayloadOf | None = None,
        source: str = "event",
    ) -> None:
        """Execute an action for each event of a type.

        Args:
            type: the event type.
            action: `service.action`.
            actor: an `Actor.workflow` or `Actor.integration`, or a function of the event that returns one.
            payload: a function of the event that returns the action's payload, the same for each delivery; by default
                the event's payload.
            source: the source of the request.

        Raises:
            ConfigurationError: for an unknown action, with the name of the nearest one; for an actor of another type,
                or of one that the action does not allow; and if the type triggers the action already.
        """
        name = type.type if isinstance(type, EventType) else type
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"type must be an event type, not {type!r}")
        service, _, short = action.partition(".") if isinstance(action, str) else ("", "", "")
        found = self._engine.get_action(service, short)
        if isinstance(found, Failure):
            raise ConfigurationError(f"the subscription of {action!r} to {name!r}: {found.failure()}")
        allowed = found.unwrap().allowed_actors
        _check_actor(action, actor)
        if isinstance(actor, Actor) and allowed is not None and actor.type not in allowed:
            raise ConfigurationError(f"{action} is only for {', '.join(sorted(allowed))} actors, not for {actor}")
        if payload is not None and not callable(payload):
            raise ConfigurationError(f"{action}: payload must be a function of the event, not {payload!r}")
        if any((known.service, known.action) == (service, short) for known in self._subscriptions[name]):
            raise ConfigurationError(f"events of the type {name!r} trigger {action} already")
        self._subscriptions[name].append(Subscription(name, service, short, actor, payload, source))

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Execute the actions that these events trigger, and return the failures."""
        failures: dict[str, PublishError] = {}
        for event in events:
            failure = await self._deliver(event)
            if failure is not None:
                failures[event.id] = failure
        return failures

    async def _deliver(self, event: Event) -> PublishError | None:
        subscriptions = self._subscriptions.get(event.type)
        if not subscriptions:
            return None
        declared = self._engine.event_types.get(event.type)
        try:
            newest = event if declared is None else event.upcast(declared)
        except EventVersionError as error:
            return PublishError(str(error))
        failures = [failed for each in subscriptions if (failed := await self._execute(each, newest)) is not None]
        return combined(failures) if failures else None

    async def _execute(self, subscription: Subscription, event: Event) -> PublishError | None:
        name = f"{subscription.service}.{subscription.action}"
        try:
            context = RequestContext(
                await self._tenants.find(event.tenant_id, "async"),
                _actor_for(subscription, event),
                subscription.source,
                reason=f"event {event.type} {event.id}",
                idempotency_key=event.id,
                request_id=event.id,
            )
            payload = event.payload if subscription.payload is None else subscription.payload(event)
        except ActionError as refusal:
            return failed_action(refusal.without_traceback(), name)
        except PublishError as error:
            return error
        except StorageUnavailable as error:
            return PublisherUnavailable(f"{name}: the tenant cannot be looked up: {error}")
        except Exception as error:
            logger.exception("the subscription of %s to %s raised (event %s)", name, event.type, event.id)
            return PublishError(f"{name}: its subscription raised {type(error).__name__}")
        answer = await self._engine.execute_action_async(subscription.service, subscription.action, payload, context)
        return failed_action(answer.failure(), name) if isinstance(answer, Failure) else None


def _actor_for(subscription: Subscription, event: Event) -> Actor:
    actor = subscription.actor
    if isinstance(actor, Actor):
        return actor
    given = actor(event)
    if not isinstance(given, Actor) or given.type not in _ACTORS:
        raise PublishError(
            f"{subscription.service}.{subscription.action}: the subscription's actor must be of the type "
            f"{' or '.join(_ACTORS)}, not {given!r}",
            retry=False,
        )
    return given


def _check_actor(action: str, actor: Any) -> None:
    if isinstance(actor, Actor) and actor.type in _ACTORS:
        return
    if isinstance(actor, Actor) or not callable(actor):
        raise ConfigurationError(
            f"{action}: actor must be an Actor.workflow(…), an Actor.integration(…), or a function of the event that "
            f"returns one, not {actor!r}"
        )
