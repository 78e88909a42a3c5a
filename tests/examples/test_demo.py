"""The demo tells its whole story."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@cache
def told(columns: str, *arguments: str, encoding: str = "utf-8") -> str:
    """Return the output of the demo, without a terminal."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": columns, "PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


EVERYWHERE = (
    "the same answer, byte for byte: True; refunded in all: 5000 cents",
    "✘ idempotency_mismatch",
    "✘ approval_required",
    "✘ forbidden",
    "✘ hook_failed",
    "✘ invalid_input",
    "✘ handler_error",
    "✘ not_found",
    "the traceback went to the log (ConnectionError",
    "events of the failed handler: 0",
    "approved by human:maria",
    "payments.refunded",
    "the first worker is gone, exit code 1",
    "on record, newest first: replayed, succeeded; refunded in all: 507000",
    "each subject in order: True",
    "NATS is down",
    "NATS is back",
    "in order: True; twice: 0; pending: 0",
    "dead letter jobs.completed, after 1 attempt: invoices.draft: unprocessable:",
    "events of this job that wait behind it: 1",
    "skipped: sent by post",
    '["Burst pipe: 8000", "No hot water: 8000"]',
    "the newest was drafted by workflow:billing",
    "deleted and rebuilt from 7 events, the same board:",
    "✘ invalid_input this is no 'job' document: urgency: the record type has no",
    "+ urgency",
    "all of them fit",
    "✘ forbidden R1: no ",
    "✘ forbidden changes.merge is not for ai actors",
    '"status": "Merged"',
    "✘ conflict a change that is Merged cannot become Draft",
    "- urgency",
    "✘ approval_required changes.merge needs an approval by an actor",
    '✔ ["parking", "floor", "ladder_needed", "urgency"]',
    '"is_intact": true',
    "paused at 'approve', after 3 steps",
    "the worker is killed, exit code -9",
    "succeeded, by a second worker",
    "workflow:escalation   invoices.escalate",
    "local-stand-in (risk-1)",
    "helper-bot alone: 24, maria: 29, both: 24, listed: 24",
    "✘ rate_limited payments.refund: the budget 'refunds of agents'",
    "payments__refund  preview  What would",
    '{"version": "4 → 5", "refunded": "4500 → 204500"}',
    "✘ not_found You have no tool 'approvals__approve'",
    "✘ forbidden human:maria asked for the approval",
    "✘ conflict payments.refund would not do what its preview showed",
    '{"version": "5 → 6", "refunded": "5500 → 205500"}',
    "helper-bot → maria: Done: human:max has approved it.",
    "budget refunds of agents: 204500 of 600000 input.amount",
    "refunded in all: 205500 cents, what Max approved among them",
)
ON_SQLITE = ("Storage is a SQLite file", "no such function: ae_writing_tenant", "ae_action_log: it is append-only")
ON_POSTGRES = (
    "Storage is PostgreSQL",
    "UPDATE on payments outside an action: go through the engine",
    "permission denied for table ae_action_log",
    "✔ [(0,)]",
)


@pytest.mark.parametrize(
    ("columns", "arguments", "there"),
    [
        ("80", (), ON_SQLITE),
        pytest.param("120", (), ON_SQLITE, marks=pytest.mark.soak),
        pytest.param("80", ("--postgres",), ON_POSTGRES, marks=pytest.mark.soak),
    ],
    ids=["sqlite-80", "sqlite-120", "postgres-80"],
)
def test_the_demo_shows_each_promise_kept(columns: str, arguments: tuple[str, ...], there: tuple[str, ...]) -> None:
    story = told(columns, *arguments)
    for line in (*EVERYWHERE, *there):
        assert line in story
    assert all(len(line) <= int(columns) for line in story.splitlines())


def test_the_demo_reads_missed_events_from_the_broker() -> None:
    story = told("80")
    _, _, back = story.partition("NATS is back")
    lines, _, after = back.partition("in order: ")
    rows = [line.split() for line in lines.splitlines() if line.strip().startswith("…")]
    assert [(row[1], row[4], row[5]) for row in rows if row[1].startswith("jobs.")] == [
        ("jobs.created", "carla", "jobs.create"),
        ("jobs.scheduled", "carla", "jobs.schedule"),
        ("jobs.completed", "tom", "jobs.complete"),
    ]
    assert {row[1] for row in rows} >= {"customers.created", "invoices.drafted"}
    assert after.count('["No hot water: completed", "Frozen pipe: completed"]') == 2


@pytest.mark.soak
def test_the_demo_is_told_where_only_ascii_can_be_written() -> None:
    story = told("80", encoding="ascii")
    assert "? forbidden" in story
    assert story.isascii()
