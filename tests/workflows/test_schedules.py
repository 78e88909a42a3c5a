"""Schedules and time zones are checked when a caller writes them, and only then."""

from __future__ import annotations

import sys

import pytest

from actionengine.workflows.definitions import schedules
from actionengine.workflows.definitions.parse import parse_trigger
from actionengine.workflows.definitions.schedules import cron, zone

TAKEN = """
* * * * *|* * * * * *|*/59 * * * *|0 9-17/8 * * *|0 5/6 * * *|@daily|0 9 * * mon-fri|0 9 ? * ?|0 0 L * *|0 0 15,L * *
0 0 * * L5|0 0 * * MON#1,TUE#5|0 0 29 2 *| 0  9 * * * |0 0 * * FRI-SUN|0 0 * * 5-7|0 0 * * 0-7|0 0 * * 7
0 0 * JAN-DEC/11 *|0 0 29 2 MON|09 09 * * *
"""

REFUSED = {
    "a step that reaches no second value": """
*/61 * * * *|*/60 * * * *|*/0 * * * *|*/99 * * * * *|0 */24 * * *|0 0 */31 * *|0 0 1 */12 *|0 0 * * */7|*/1000 * * * *
10-20/30 * * * *|30/30 * * * *|0 0 * * 0/7|59/1 * * * *
""",
    "a value out of its field's range, or the name of another field's": """
60 * * * *|0 24 * * *|0 0 0 * *|0 0 32 * *|0 0 1 0 *|0 0 1 13 *|0 0 * * 8|60 0 0 * * *|0 0 1-32 * *|0 0 * * -1
0 0 * MON *|0 0 * * JAN|MON * * * *|0 0 * * MONDAY|+5 * * * *|005 * * * *
""",
    "a range that is none": """
5-5 * * * *|50-10 * * * *|0 22-2 * * *|0 0 * FEB-JAN *|0 0 * * 1-0/2-3|0 0 * * SUN-SUN|0 0 * * FRI-MON|0 0 * * 1-2-3
""",
    "a time that never comes": "0 0 30 2 *|0 0 31 2,4,6,9,11 *|0 0 30 FEB ?",
    "another dialect, or no schedule": """
0 0 LW * *|0 0 15W * *|0 0 L-3 * *|0 0 * * L|0 0 * * 5L|0 0 * * 1#6|0 0 * * 1#0|0 L * * *|H 9 * * *|R(0-5) 9 * * *
@reboot|@DAILY|0 9 * *|0 0 1 1 * 0 2050|1,,2 * * * *|1, * * * *|*-5 * * * *|?/5 * * * *|0 ? * * *|*/*/2 * * * *
\u0665 * * * *|\uff15 * * * *|0 9\u00a0* * *|0 9 \u2217 * *
""",
}


def each(texts: str) -> list[str]:
    return [text for line in texts.splitlines() for text in line.split("|") if text]


@pytest.mark.parametrize("schedule", each(TAKEN))
def test_valid_schedules(schedule: str) -> None:
    assert cron(schedule) == schedule


@pytest.mark.parametrize("schedule", ["", " ", *(text for texts in REFUSED.values() for text in each(texts))])
def test_invalid_schedules(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"is not a schedule|never comes"):
        cron(schedule)


def test_a_refusal_names_the_field_and_what_it_may_be() -> None:
    with pytest.raises(
        ValueError, match=r"'\*/61' does not fit the minute: its step of 61 .* from 0 to 59, write 1 to 59"
    ):
        cron("*/61 * * * *")
    with pytest.raises(
        ValueError, match=r"'FRIDAY' does not fit the day of the week: write \*, a value of 0 to 7, or SUN to SAT"
    ):
        cron("0 9 * * FRIDAY")


@pytest.mark.parametrize("name", each("UTC|Europe/Berlin|America/Argentina/Buenos_Aires|Etc/GMT+5|EST5EDT|Zulu"))
def test_zones_that_are_the_same_everywhere(name: str) -> None:
    assert zone(name) == name


NEAR = {"europe/berlin": "Europe/Berlin", "EUROPE/BERLIN": "Europe/Berlin", "utc": "UTC", " UTC": "UTC", "UTC\0": "UTC"}

DIFFER = """
localtime|posixrules|Factory|LocalTime|factory|posix/Europe/Berlin|right/UTC|/usr/share/zoneinfo/UTC|Europe|.|..|UTC+1
Europe/Berln|Europe/Berlin/|Europe//Berlin|./UTC|Africa/../UTC|+01:00|zone.tab|tzdata.zi|America/Argentina|etc
"""


@pytest.mark.parametrize("name", ["", *NEAR, *each(DIFFER)])
def test_zones_that_differ_by_machine_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r": name one such as [A-Z]") as refusal:
        zone(name)

    assert str(refusal.value).endswith(NEAR.get(name, ""))


def test_a_machine_without_tzdata_takes_the_zones_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tzdata", None)
    monkeypatch.setattr(schedules, "available_timezones", lambda: {"UTC", "localtime"})
    schedules._zones.cache_clear()
    try:
        assert zone("UTC") == "UTC"
        for name in ("Europe/Berlin", "localtime"):
            with pytest.raises(ValueError, match="name one such as"):
                zone(name)
    finally:
        schedules._zones.cache_clear()


def test_a_stored_schedule_is_not_checked_again() -> None:
    given = {"type": "schedule", "schedule": "*/61 * * * *", "timezone": "Mars/Base"}

    assert parse_trigger(given, stored=True).model_dump(include={"schedule", "timezone"}) == {
        "schedule": "*/61 * * * *",
        "timezone": "Mars/Base",
    }
