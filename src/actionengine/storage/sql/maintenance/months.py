"""Months, and the keys of the rows that belong to them.

The action log has ids that begin with their time (UUIDv7). The events have positions: those of a month begin at a
multiple of 2**31, to which `make` moves the sequence once the month has begun.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

LOG, EVENTS = "log", "events"

KEYS = {
    "ae_action_log": "id",
    "ae_action_log_subjects": "log_id",
    "ae_action_log_principals": "log_id",
    "ae_action_log_words": "log_id",
    "ae_events": "position",
}
"""The partitioned tables, in the order in which an action writes to them, each with the column of its ranges."""

GROUPS = {LOG: tuple(table for table in KEYS if table != "ae_events"), EVENTS: ("ae_events",)}
"""The tables that are partitioned together."""

_FIRST_YEAR = 2020
_POSITIONS = 1 << 31
"""Positions of a month: more than 800 events a second. More of them go into the next month's partition."""


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month in UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, time: datetime) -> Month:
        """Return the month of a time."""
        time = time.astimezone(UTC)
        return cls(time.year, time.month)

    @classmethod
    def parse(cls, text: str) -> Month:
        """Return the month of a text such as `2027-01`. Raise `ValueError` for any other text."""
        found = re.fullmatch(r"(20\d\d)[-_](0[1-9]|1[0-2])", text)
        if found is None:
            raise ValueError(f"{text!r} is not a month: give a year and a month, such as 2027-01")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.year}-{self.number:02}"

    def plus(self, months: int) -> Month:
        """Return the month that is so many months later."""
        year, number = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, number + 1)

    def months_since(self, other: Month) -> int:
        """Return the number of months from another month to this one."""
        return (self.year - other.year) * 12 + self.number - other.number

    @property
    def start(self) -> datetime:
        """The time at which it begins."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def first_id(self) -> UUID:
        """The lowest id of its rows in the action log."""
        return UUID(int=(int(self.start.timestamp()) * 1000) << 80)

    @property
    def first_position(self) -> int:
        """The lowest position of its events."""
        return self.months_since(Month(_FIRST_YEAR, 1)) * _POSITIONS

    def table(self, parent: str) -> str:
        """Return the name of its partition of a table."""
        return f"{parent}_{self.year}_{self.number:02}"

    def first_key(self, parent: str) -> str:
        """Return the lowest key of its rows in a table, as SQL writes it."""
        return str(self.first_position) if KEYS[parent] == "position" else f"'{self.first_id}'"
