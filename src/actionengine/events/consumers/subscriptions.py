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
    """That events of a type trigger an action, as whom, and with what."""

    type: str
    service: str
    action: str
    actor: Actor | ActorOf
    payload: PayloadOf | None
    source: str


class Subscriptions:
    """Executes actions for events. It is a publisher: give it to a relay.

    Each action is executed as an ordinary one, with the event's id as its idempotency key, so that an event which is
    delivered again takes effect once. Keys expire after `Limits.idempotency_ttl` (24 hours by default): a dead letter
    that is older executes again. An action that takes no keys (`idempotency="none"`) executes with each delivery.

    What an action fails with decides on the event: `unavailable` makes the relay wait, without an attempt being
    counted; what a later attempt may mend (`conflict`, `timeout`, `handler_error`, …) is tried again; what it cannot
    mend (`invalid_input`, `forbidden`, `not_found`, `unprocessable`, …) makes a dead letter at once. An action that
    waits for an approval counts as delivered: the approval holds it. Where one of several actions of an event fails, an
    attempt to deliver the event executes them all, and those that succeeded answer from their keys.

    Actions run under the event loop of the relay, `def` handlers too: give one that may block a `timeout`, with which
    it runs in a thread of its own.

    Args:
        engine: what executes; its event types bring old payloads to their newest versions.
        concurrency: events whose actions execute at once.
        tenant_of: the tenant of an id, for a host with a directory of its own.
    """

    batch_size = 1

    def __init__(self, engine: Engine, *, concurrency: int = 1, tenant_of: TenantOf | None = None) -> None:
        if not isinstance(concurrency, int) or concurrency < 1:
            raise ConfigurationError(f"concurrency is a number of 1 or more, not {concurrency!r}")
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
            actor: who acts: an `Actor.workflow` or `Actor.integration`, or a function of the event that gives one.
            payload: a function of the event that gives the action's payload, the same each time; by default the event's
                payload as it is.
            source: the source of the request.

        Raises:
            ConfigurationError: for an action that is not there, naming the nearest one; for an actor of another type,
                or of one that the action does not allow; and where the type triggers the action already.
        """
        name = type.type if isinstance(type, EventType) else type
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a subscription is to a type of events, not to {type!r}")
        service, _, short = action.partition(".") if isinstance(action, str) else ("", "", "")
        found = self._engine.get_action(service, short)
        if isinstance(found, Failure):
            raise ConfigurationError(f"the subscription of {action!r} to {name!r}: {found.failure()}")
        allowed = found.unwrap().allowed_actors
        _check_actor(action, actor)
        if isinstance(actor, Actor) and allowed is not None and actor.type not in allowed:
            raise ConfigurationError(f"{action} is only for {', '.join(sorted(allowed))} actors, not for {actor}")
        if payload is not None and not callable(payload):
            raise ConfigurationError(f"{action}: payload is a function of the event, not {payload!r}")
        if any((known.service, known.action) == (service, short) for known in self._subscriptions[name]):
            raise ConfigurationError(f"events of the type {name!r} trigger {action} already")
        self._subscriptions[name].append(Subscription(name, service, short, actor, payload, source))

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Execute what these events trigger."""
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
            f"{subscription.service}.{subscription.action}: the subscription's actor is {given!r}, "
            f"and has to be one of the type {' or '.join(_ACTORS)}",
            retry=False,
        )
    return given


def _check_actor(action: str, actor: Any) -> None:
    if isinstance(actor, Actor) and actor.type in _ACTORS:
        return
    if isinstance(actor, Actor) or not callable(actor):
        raise ConfigurationError(
            f"{action}: what an event triggers is done by an Actor.workflow(…) or an Actor.integration(…), "
            f"or by what a function of the event gives, not by {actor!r}"
        )
