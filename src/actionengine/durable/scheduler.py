"""The scheduler of a process: it enqueues an execution at each time of each schedule.

It replaces DBOS's own, which has a thread for each schedule, and ends at the first unreadable schedule. A schedule that
this process cannot read, because it does not know the time zone for example, is left to other processes, and retried
later. All processes enqueue each time under the same id, so that it is executed once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from math import inf
from time import monotonic
from zoneinfo import ZoneInfo

from croniter import croniter  # type: ignore[import-untyped]

from actionengine.durable.client import DurableClient, Enqueued, Schedule

logger = logging.getLogger("actionengine")

_READ = 1.0
"""Seconds between two checks of the schedules for changes."""

_AGAIN = 60.0
"""Seconds after which an unreadable schedule is retried, and after which all schedules are read in any case."""

_SHARE = 10
"""Reading all schedules takes at most a tenth of the time, even if they change often."""

_SET_BACK = timedelta(seconds=5)
"""A step back of the clock after which the next times are computed again."""

_SAID = 3600.0
"""Seconds for which a logged reason is not logged again."""

_MAX_BATCH_SIZE = 500
"""The most executions that are enqueued at once."""


class Scheduler:
    """The schedules that one process knows, and their next times. Only one thread uses it."""

    def __init__(self, client: DurableClient, now: Callable[[], datetime] | None = None) -> None:
        self._client = client
        self._clock = _Clock(client)
        self._now = now or self._clock
        self._planned: dict[str, _Planned] = {}
        self._coming: list[tuple[datetime, str, _Planned]] = []
        self._aside: dict[str, tuple[Schedule, float]] = {}
        self._said: dict[str, float] = {}
        self._read_at: datetime | None = None
        self._mark: str | None = None
        self._read_all_at = -inf
        self._read_all_took = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Enqueue due executions until `stopping` is set. Raises `DurableUnavailable`; the next call then enqueues the
        executions that were due meanwhile."""
        read_at = monotonic()
        while not stopping.is_set():
            if monotonic() >= read_at:
                read_at = monotonic() + _READ
                self.read()
            self.enqueue_due()
            stopping.wait(max(0.0, min(read_at - monotonic(), self._seconds_to_next())))

    def read(self) -> None:
        """Read the schedules if they have changed: new ones count from now, and removed ones end."""
        if self._now is self._clock:
            self._clock.read()
        if self._read_at is not None and self._now() < self._read_at - _SET_BACK:
            # The clock was set back. A time that comes again has the same id.
            self._planned.clear()
            self._read_all_at = -inf
        self._read_at = self._now()
        mark, began = self._client.schedules_mark(), monotonic()
        rest = _AGAIN if mark == self._mark else _SHARE * self._read_all_took - _READ
        if began < self._read_all_at + rest:
            return
        self._read_all()
        self._mark, self._read_all_at = mark, began

    def _read_all(self) -> None:
        began = monotonic()
        found = {schedule.name: schedule for schedule in self._client.schedules()}
        self._read_all_took = monotonic() - began
        for name in self._planned.keys() - found.keys():
            del self._planned[name]
        for name in self._aside.keys() - found.keys():
            del self._aside[name]
        for name, schedule in found.items():
            planned = self._planned.get(name)
            if planned is None or planned.schedule != schedule:
                self._planned.pop(name, None)
                self._plan(schedule)

    def enqueue_due(self) -> None:
        """Enqueue the due executions, the earliest first."""
        now = self._now()
        while due := self._take_due(now):
            orders = [each for _, _, planned in due for each in self._ordered(planned)]
            try:
                self._client.enqueue_all(orders)
            except BaseException:
                for each in due:
                    heappush(self._coming, each)
                raise
            for _, _, planned in due:
                self._move_on(planned)

    def _take_due(self, now: datetime) -> list[tuple[datetime, str, _Planned]]:
        due: list[tuple[datetime, str, _Planned]] = []
        while self._coming and self._coming[0][0] <= now and len(due) < _MAX_BATCH_SIZE:
            entry = heappop(self._coming)
            # Entries of replaced and removed schedules are left out.
            if self._planned.get(entry[1]) is entry[2]:
                due.append(entry)
        return due

    def _ordered(self, planned: _Planned) -> Iterator[Enqueued]:
        try:
            yield planned.ordered()
        except Exception as error:
            self._put_aside(planned.schedule, error)

    def _plan(self, schedule: Schedule) -> None:
        aside = self._aside.get(schedule.name)
        if aside is not None and aside[0] == schedule and monotonic() < aside[1]:
            return
        try:
            self._add(_Planned(schedule, self._now()))
        except Exception as error:
            self._put_aside(schedule, error)
        else:
            self._aside.pop(schedule.name, None)

    def _move_on(self, planned: _Planned) -> None:
        if self._planned.get(planned.schedule.name) is not planned:
            return
        try:
            planned.move_on()
            self._add(planned)
        except Exception as error:
            self._put_aside(planned.schedule, error)

    def _add(self, planned: _Planned) -> None:
        self._planned[planned.schedule.name] = planned
        heappush(self._coming, (planned.at.astimezone(UTC), planned.schedule.name, planned))
        if len(self._coming) > 2 * len(self._planned) + _MAX_BATCH_SIZE:
            # Schedules that are often replaced, and due much later, leave entries behind.
            self._coming = [each for each in self._coming if self._planned.get(each[1]) is each[2]]
            heapify(self._coming)

    def _put_aside(self, schedule: Schedule, error: Exception) -> None:
        """Leave a schedule to other processes for a while."""
        self._planned.pop(schedule.name, None)
        self._aside[schedule.name] = (schedule, monotonic() + _AGAIN)
        reason = f"{type(error).__name__}: {error}"
        now = monotonic()
        self._said = {said: until for said, until in self._said.items() if until > now}
        if reason not in self._said:
            self._said[reason] = now + _SAID
            logger.error(
                "this process does not serve the schedule %s (%r in %s), nor others with the same error: %s",
                *(schedule.name, schedule.cron, schedule.timezone, reason),
            )

    def _seconds_to_next(self) -> float:
        return (self._coming[0][0] - self._now()).total_seconds() if self._coming else _READ


class _Clock:
    """The clock of the durable engine's database, which all hosts use: its last reading, and the time since then."""

    def __init__(self, client: DurableClient) -> None:
        self._client = client
        self._ahead = 0.0

    def read(self) -> None:
        """Read the clock of the database."""
        self._ahead = self._client.now().timestamp() - monotonic()

    def __call__(self) -> datetime:
        """Return the time."""
        return datetime.fromtimestamp(monotonic() + self._ahead, UTC)


class _Planned:
    """A schedule, and its next time."""

    def __init__(self, schedule: Schedule, now: datetime) -> None:
        self.schedule = schedule
        zone = UTC if schedule.timezone is None else ZoneInfo(schedule.timezone)
        self._times = croniter(schedule.cron, now.astimezone(zone), second_at_beginning=True)
        self.move_on()

    def __lt__(self, other: _Planned) -> bool:
        # Equal entries of the heap may come in any order.
        return False

    def move_on(self) -> None:
        """Go to the next time."""
        self.at: datetime = self._times.get_next(datetime)

    def ordered(self) -> Enqueued:
        """Return the execution at this time."""
        schedule, at = self.schedule, self.at.isoformat()
        id = f"sched-{schedule.name}-{at}"
        return Enqueued(schedule.function, (at, schedule.read_context()), schedule.queue, id)
