"""The types of triggers: what starts runs by itself, as a part of a definition or by the service `triggers`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]
from pydantic import AfterValidator, Field, JsonValue, model_validator

from actionengine.changes.ops import Name
from actionengine.workflows.conditions import paths
from actionengine.workflows.step_types import Part, When
from actionengine.workflows.values import references

_RANDOM = re.compile(r"(?<![A-Z])[HR](?![A-Z])", re.IGNORECASE)
"""Of croniter's: each process would have a time of its own."""

_MOST_FIELDS = 6


def cron(schedule: str) -> str:
    """A schedule. Raises `ValueError` for one that is none, and for one whose time never comes."""
    is_one = croniter.is_valid(schedule, second_at_beginning=True) and len(schedule.split()) <= _MOST_FIELDS
    if not is_one or _RANDOM.search(schedule):
        raise ValueError(
            f"{schedule!r} is no schedule: it has five fields, as in '0 9 * * MON-FRI', or six with seconds"
        )
    try:
        croniter(schedule, datetime.now(UTC), second_at_beginning=True).get_next()
    except CroniterBadDateError:
        raise ValueError(f"the time of the schedule {schedule!r} never comes") from None
    return schedule


def zone(name: str) -> str:
    """A time zone's name. Raises `ValueError` for one that there is not."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; name one as in Europe/Berlin") from None
    return name


class EventTrigger(Part):
    """Starts a run for each event of a type for which `when` holds; `input` refers to the event as `input`: its
    `payload`, `id`, `type`, `subject`, `actor` and `occurred_at`. What workflows themselves have caused starts none,
    unless `from_workflows`."""

    type: Literal["event"]
    event_type: Name
    when: When | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    from_workflows: bool = False

    @model_validator(mode="after")
    def _asks_the_event(self) -> EventTrigger:
        asked = [path for path, _ in paths(self.when)] if self.when is not None else []
        for path in (*asked, *references(self.input)):
            if path[0] != "input" or path[1] not in _EVENT:
                raise ValueError(f"{'.'.join(path)!r}: a trigger knows input.{', input.'.join(sorted(_EVENT))}")
        return self


_EVENT = frozenset({"payload", "id", "type", "subject", "actor", "occurred_at"})


class ScheduleTrigger(Part):
    """Starts a run at each time of a schedule (cron, of five fields or six with seconds first). `input` may refer to
    `input.scheduled_at`."""

    type: Literal["schedule"]
    schedule: Annotated[str, Field(max_length=100), AfterValidator(cron)]
    timezone: Annotated[str, AfterValidator(zone)] = "UTC"
    input: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _asks_the_time(self) -> ScheduleTrigger:
        for path in references(self.input):
            if path != ("input", "scheduled_at"):
                raise ValueError(f"{'.'.join(path)!r}: a schedule knows input.scheduled_at")
        return self


Trigger = Annotated[EventTrigger | ScheduleTrigger, Field(discriminator="type")]
