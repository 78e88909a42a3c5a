"""The parts that the commands of an owner share: the actor, the transactions, and times in the past."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

import typer

from actionengine.cli.common import check_exists, owner
from actionengine.cli.errors import ExitCode, fail, refuse
from actionengine.cli.governed import acting_actor
from actionengine.errors import ActionError
from actionengine.storage.sql.maintenance.work import Maintenance

OwnerUrl = Annotated[
    str,
    typer.Option(envvar="ACTIONENGINE_URL", help="The database, as the owner of the tables, like `db upgrade`."),
]
RecordedReason = Annotated[str | None, typer.Option("--reason", help="The reason, for the record of maintenance.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what it would do, and change nothing.")]
Ignored = Annotated[
    list[str] | None,
    typer.Option("--ignore-projection", help="A projection that needs the events no more, by its name; repeat."),
]

MAX_REASON_LENGTH = 10_000

_AGE = re.compile(r"(\d{1,5})(h|d|w|mo|y)")
_HOURS = {"h": 1, "d": 24, "w": 168}


@contextmanager
def maintaining(url: str, actor: str | None, reason: str | None) -> Iterator[Maintenance]:
    """Give the transactions of a command for its actor. Report its refusals."""
    if len(reason or "") > MAX_REASON_LENGTH:
        fail(f"--reason has at most {MAX_REASON_LENGTH:,} characters", ExitCode.USAGE)
    check_exists(url)
    try:
        yield Maintenance(partial(owner, url), str(acting_actor(actor, (), ())), reason)
    except ActionError as error:
        refuse(error)


def chosen(given: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the values of a repeated option, in the order of the known ones; by default all. End the program for an
    unknown one."""
    for value in given or ():
        if value not in known:
            fail(f"--of is one of {', '.join(known)}, not {value!r}", ExitCode.USAGE)
    return [value for value in known if not given or value in given]


def time_before(age: str, now: datetime) -> datetime:
    """Return the time that is so long ago, as in 13mo, 90d, 2y or 12h, or the one that is given in ISO 8601. End the
    program for other texts, and for a time that is not in the past."""
    found = _AGE.fullmatch(age)
    try:
        time = _earlier(now, int(found[1]), found[2]) if found is not None else datetime.fromisoformat(age)
        time = time.astimezone(UTC) if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        fail(f"{age!r} is no age and no time: give one as 13mo, 90d, 4w, 2y, 12h, or 2027-01-01", ExitCode.USAGE)
    if time >= now:
        fail(f"{age!r} is not in the past", ExitCode.USAGE)
    return time


def _earlier(now: datetime, number: int, unit: str) -> datetime:
    if unit in _HOURS:
        return now - timedelta(hours=number * _HOURS[unit])
    months = now.year * 12 + now.month - 1 - number * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    if year < 1:
        raise ValueError("there is no year 0")
    return now.replace(year=year, month=month + 1, day=min(now.day, calendar.monthrange(year, month + 1)[1]))
