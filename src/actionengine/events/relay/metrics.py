"""The metrics of a relay, for OpenTelemetry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from actionengine.events.event import Event
from actionengine.storage.outbox import OutboxStatus
from actionengine.storage.rows import Backlog


class RelayMetrics:
    """The instruments of one relay. Without OpenTelemetry they record nothing."""

    def __init__(self, name: str, queue: str) -> None:
        self._queue = {"actionengine.queue": queue}
        self._attributes = {"actionengine.relay": name, **self._queue}
        self.is_on = False
        try:
            from opentelemetry import metrics
        except ImportError:
            return
        self.is_on = True
        meter = metrics.get_meter("actionengine")
        self._delivered = meter.create_counter("actionengine.relay.delivered", description="Events delivered")
        self._failed = meter.create_counter("actionengine.relay.failed", description="Attempts that have failed")
        self._delay = meter.create_histogram(
            "actionengine.relay.delay", unit="s", description="From the action's start to the delivery of its event"
        )
        self._gauges: dict[str, Any] = {
            name: meter.create_gauge(f"actionengine.outbox.{name}", unit=unit, description=description)
            for name, unit, description in (
                ("pending", "1", "Events still to be delivered (lag); 10 000 stands for that many or more"),
                ("age", "s", "How long the oldest of them has waited"),
                ("dead", "1", "Dead letters"),
                ("held", "1", "Events behind dead letters, or behind those that wait for another attempt"),
            )
        }

        self._backlog: dict[str, Any] = {
            name: meter.create_gauge(name, unit=unit, description=description)
            for name, unit, description in (
                ("actionengine.approvals.waiting", "1", "Approvals that can still be decided, of all tenants"),
                ("actionengine.approvals.age", "s", "How long the oldest of them has waited"),
                ("actionengine.schedules.active", "1", "Schedules in use, of all tenants"),
            )
        }

    def count(self, delivered: list[Event], failed: int) -> None:
        """Record a batch."""
        if not self.is_on:
            return
        now = datetime.now(UTC)
        self._delivered.add(len(delivered), self._attributes)
        self._failed.add(failed, self._attributes)
        for event in delivered:
            self._delay.record((now - event.occurred_at).total_seconds(), self._attributes)

    def gauge(self, status: OutboxStatus) -> None:
        """Record the status of the queue."""
        if not self.is_on:
            return
        self._gauges["pending"].set(status.pending, self._queue)
        self._gauges["dead"].set(status.dead, self._queue)
        self._gauges["held"].set(status.held, self._queue)
        self._gauges["age"].set(age_of(status), self._queue)

    def gauge_backlog(self, backlog: Backlog) -> None:
        """Record the waiting approvals and the active schedules."""
        self._backlog["actionengine.approvals.waiting"].set(backlog.approvals)
        self._backlog["actionengine.approvals.age"].set(age_since(backlog.oldest_approval))
        self._backlog["actionengine.schedules.active"].set(backlog.schedules)


def age_of(status: OutboxStatus) -> float:
    """Return the age of the oldest event in seconds; 0 if there is none."""
    return age_since(status.oldest)


def age_since(time: datetime | None) -> float:
    """Return the seconds since a time; 0 for None."""
    return max(0.0, (datetime.now(UTC) - time).total_seconds()) if time is not None else 0.0
