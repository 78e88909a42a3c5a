"""Checks of cron expressions and time zones, when a caller writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import available_timezones

from croniter import CroniterError, croniter  # type: ignore[import-untyped]

from actionengine.text.names import shortened


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: Mapping[str, int] = {}
    whole: tuple[str, ...] = ("*",)
    """The texts that mean each value."""
    special: re.Pattern[str] | None = None
    """Entries that only this field takes, such as the last day of a month."""


_MONTHS = {
    name: number
    for number, name in enumerate(
        ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"], 1
    )
}
_DAYS = {"SUN": 0, "MON": 1, "TUE": 2, "WED": 3, "THU": 4, "FRI": 5, "SAT": 6}
_ANY_DAY = f"(?:[0-7]|{'|'.join(_DAYS)})"

_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31, whole=("*", "?"), special=re.compile("L")),
    _Field("month", 1, 12, _MONTHS),
    # Sunday is 0 and 7.
    _Field("day of the week", 0, 7, _DAYS, ("*", "?"), re.compile(f"{_ANY_DAY}#[1-5]|L{_ANY_DAY}")),
)

_SHORT = {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}

_VALUE = "[0-9]{1,2}|[A-Z]{3}"
_ENTRY = re.compile(rf"(?P<first>\*|\?|{_VALUE})(?:-(?P<last>{_VALUE}))?(?:/(?P<step>[0-9]{{1,3}}))?")

_DIFFER = frozenset({"localtime", "posixrules", "Factory"})
"""Entries of the zone files that name no place, and differ between machines."""


def cron(schedule: str) -> str:
    """Return the schedule. Raise `ValueError` for a text that is not a cron expression, or never comes."""
    fields = schedule.upper().split()
    if schedule not in _SHORT:
        if len(fields) not in (5, 6) or not schedule.isascii():
            raise ValueError(
                f"{schedule!r} is not a schedule: write five fields, as in '0 9 * * MON-FRI', or six with seconds first"
            )
        for field, text in zip(_FIELDS[-len(fields) :], fields, strict=True):
            for entry in text.split(","):
                if (reason := _entry_error(field, entry)) is not None:
                    raise ValueError(
                        f"{schedule!r} is not a schedule: {entry!r} does not fit the {field.name}: {reason}"
                    )
    try:
        times = croniter(schedule, datetime.now(UTC), second_at_beginning=True)
    except (CroniterError, ValueError) as error:
        raise ValueError(f"{schedule!r} is not a schedule: {error}") from None
    try:
        times.get_next()
    except CroniterError:
        raise ValueError(f"the schedule {schedule!r} has a time that never comes") from None
    return schedule


def _entry_error(field: _Field, entry: str) -> str | None:
    """Return the reason why an entry of a field is refused, or None."""
    if field.special is not None and field.special.fullmatch(entry):
        return None
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        return _expected(field)
    start, end, step = parts["first"], parts["last"], parts["step"]
    if start in field.whole and end is None:
        first, last = field.first, field.last
    else:
        first, last = _value(field, start), field.last if end is None else _value(field, end)
        if end in {"SUN", "0"} and field.names is _DAYS and first > 0:
            last = field.last
        if not field.first <= first <= field.last or not field.first <= last <= field.last:
            return _expected(field)
        if end is not None and first >= last:
            return "its range does not go from a lower value to a higher one: write two ranges, or one value"
    if field.names is _DAYS and first == 0:
        # Sunday is both 0 and 7.
        last = min(last, 6)
    if step is not None and not 0 < int(step) <= last - first:
        return f"its step of {step} reaches no second value: from {first} to {last}, write 1 to {last - first}"
    return None


def _value(field: _Field, text: str) -> int:
    return int(text) if text.isdigit() else field.names.get(text, -1)


def _expected(field: _Field) -> str:
    names = f", or {next(iter(field.names))} to {list(field.names)[-1]}" if field.names else ""
    return (
        f"write *, a value of {field.first} to {field.last}{names}, or a range such as a-b, each with a step or without"
    )


@cache
def _zones() -> Mapping[str, str]:
    """Return the names of the time zones, keyed by themselves and by their lower-case form.

    The package `tzdata` lists them, so each machine has the same.
    """
    try:
        names = set(resources.files("tzdata").joinpath("zones").read_text().split())
    except (ImportError, OSError):
        names = available_timezones()
    names -= _DIFFER
    return {name.casefold(): name for name in names} | {name: name for name in names}


def zone(name: str) -> str:
    """Return the name of a time zone. Raise `ValueError` for a text that is not the same zone on each machine."""
    known = _zones()
    if known.get(name) == name:
        return name
    name = shortened(name)
    close = get_close_matches(name, known, 1)
    near = known.get(name.casefold()) or (known[close[0]] if close else "Europe/Berlin")
    reason = f"{name!r} differs between machines" if name in _DIFFER else f"there is no time zone {name!r}"
    raise ValueError(f"{reason}: name one such as {near}")
