"""Stored texts on a terminal: escaped, and in lines that fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from actionengine.cli import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refund 7 €", "refund 7 €"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("one\ntwo\r\n\tthree", "one\\ntwo\\r\\n\\tthree"),
        ("abc\u202edef\u2066\u200f", "abc\\u202edef\\u2066\\u200f"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u2028\u2029\ufeff", "\\u2028\\u2029\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("東京 ünï", "東京 ünï"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text: str, shown: str) -> None:
    assert terminal.escape(text) == shown


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    id = "0199aa10-7c00-7000-8000-000000000001"

    lines = terminal.wrap(f"the event {id} {'x' * 100} 東京{'京' * 50}", 2)

    assert all(line.startswith("  ") for line in lines)
    assert all(len(line) + sum(each > "\u2fff" for each in line) <= columns for line in lines)
    assert any(id in line for line in lines)


def test_times_are_utc_and_ages_are_for_people() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert terminal.iso(now.astimezone()) == "2026-01-31T12:00:00Z"
    ages = {timedelta(seconds=3): "3 s ago", timedelta(minutes=90): "90 min ago", timedelta(hours=50): "2 d ago"}
    assert [terminal.age(now - each, now) for each in ages] == list(ages.values())
    assert terminal.age(now + timedelta(hours=3), now) == "in 3 h"
    assert terminal.duration(0.0123) == "12 ms"
