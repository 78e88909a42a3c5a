"""`actionengine db partition ...`: monthly partitions of the action log and of the events, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from actionengine.cli.common import Json, dialect_of, example
from actionengine.cli.errors import ExitCode, fail
from actionengine.cli.governed import ActorName
from actionengine.cli.maintenance import DryRun, Ignored, OwnerUrl, RecordedReason, chosen, maintaining, time_before
from actionengine.cli.output import write_json
from actionengine.cli.terminal import write, write_block
from actionengine.storage.sql.maintenance.months import GROUPS, Month
from actionengine.storage.sql.maintenance.partitions import (
    MAX_MONTHS,
    Partition,
    Step,
    detach_partitions,
    drop_partitions,
    ended_before,
    list_partitions,
    make_partitions,
)
from actionengine.storage.sql.maintenance.work import Maintenance

partition = typer.Typer(no_args_is_help=True, help="Monthly partitions of the log and the events (PostgreSQL).")

Groups = Annotated[list[str] | None, typer.Option("--of", help="log or events; repeat. By default both.")]
MonthArgument = Annotated[str | None, typer.Argument(help="The month, such as 2027-01.", show_default=False)]
OlderThan = Annotated[
    str | None,
    typer.Option(help="All months that ended so long ago: 13mo, 90d, 2y, or before a date as 2027-01-01."),
]


@partition.callback()
def commands() -> None:
    """Monthly partitions of the action log and of the events, on PostgreSQL."""


@partition.command(epilog=example("db partition make --months 3 --dry-run", "db partition make --months 3"))
def make(
    url: OwnerUrl,
    months: Annotated[int, typer.Option(min=0, max=MAX_MONTHS, help="Months ahead of this one.")] = 3,
    of: Groups = None,
    actor: ActorName = None,
    reason: RecordedReason = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make the partitions of this month and of later ones, where they are missing. Run it every week or month.

    The first run turns the existing tables into the default partitions, without copying a row. Hosts can write
    meanwhile.
    """
    _check_dialect(url)
    groups, now = chosen(of, tuple(GROUPS)), datetime.now(UTC)
    with maintaining(url, actor, reason) as maintenance:
        plan = make_partitions(maintenance, groups, months, now, dry_run=dry_run)
        _write_steps(plan.steps, plan.notes, dry_run, json, "all partitions are there")


@partition.command("list", epilog=example("db partition list", "db partition list --json"))
def list_command(url: OwnerUrl, json: Json = False) -> None:
    """List the partitions with their estimated rows and their bytes, also the detached ones."""
    _check_dialect(url)
    with maintaining(url, None, None) as maintenance, maintenance.begin() as connection:
        found = list_partitions(connection)
    if json:
        write_json({"items": [_as_json(each) for each in found]})
        return
    for parent in dict.fromkeys(each.parent for each in found):
        write_block(parent, ())
        for each in found:
            if each.parent == parent:
                rows = "?" if each.rows is None else f"{each.rows:,}"
                write(f"  {each.month or '-'!s:7}  {each.state:8}  {rows:>14} rows  {_size(each.bytes):>10}")
    if all(each.state == "whole" for each in found):
        write("no table is partitioned: see `actionengine db partition make`")


@partition.command(epilog=example("db partition detach 2026-01 --dry-run", "db partition detach 2026-01"))
def detach(
    url: OwnerUrl,
    month: MonthArgument = None,
    older_than: OlderThan = None,
    of: Groups = None,
    ignore_projection: Ignored = None,
    actor: ActorName = None,
    reason: RecordedReason = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Detach the partitions of a month: its rows leave the log, for tables that only the owner reads.

    It refuses events that a queue has not delivered, or that a projection has not read.
    """
    _check_dialect(url)
    groups, now, ignored = chosen(of, tuple(GROUPS)), datetime.now(UTC), ignore_projection or ()
    with maintaining(url, actor, reason) as maintenance:
        done: list[Step] = []
        for each in _months(maintenance, groups, month, older_than, now):
            done += detach_partitions(maintenance, groups, each, now, ignored, dry_run=dry_run)
        _write_steps(done, (), dry_run, json, "nothing is left to detach")


@partition.command(epilog=example("db partition drop 2026-01", "db partition drop --older-than 13mo --dry-run"))
def drop(
    url: OwnerUrl,
    month: MonthArgument = None,
    older_than: OlderThan = None,
    of: Groups = None,
    ignore_projection: Ignored = None,
    actor: ActorName = None,
    reason: RecordedReason = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Drop the detached partitions of a month, with all their rows.

    With --older-than, detach and drop those of all months that ended so long ago.
    """
    _check_dialect(url)
    groups, now, ignored = chosen(of, tuple(GROUPS)), datetime.now(UTC), ignore_projection or ()
    with maintaining(url, actor, reason) as maintenance:
        done: list[Step] = []
        for each in _months(maintenance, groups, month, older_than, now):
            if older_than is not None:
                done += detach_partitions(maintenance, groups, each, now, ignored, dry_run=dry_run)
            # In a dry run nothing was detached.
            attached = dry_run and older_than is not None
            done += drop_partitions(maintenance, groups, each, dry_run=dry_run, attached=attached)
        _write_steps(done, (), dry_run, json, "nothing is left to drop")


def _months(
    maintenance: Maintenance, groups: Sequence[str], month: str | None, older_than: str | None, now: datetime
) -> list[Month]:
    if (month is None) == (older_than is None):
        fail("name a month, such as 2027-01, or give --older-than", ExitCode.USAGE)
    if older_than is not None:
        with maintenance.begin() as connection:
            return ended_before(connection, groups, time_before(older_than, now))
    assert month is not None
    try:
        return [Month.parse(month)]
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


def _write_steps(steps: Sequence[Step], notes: Sequence[str], dry_run: bool, json: bool, none: str) -> None:
    if json:
        items = [
            {"title": step.title, **step.details, **({"statements": list(step.statements)} if dry_run else {})}
            for step in steps
        ]
        write_json({"items": items, "notes": list(notes), "dry_run": dry_run})
        return
    for step in steps:
        if dry_run:
            # SQL can be copied: it is not wrapped.
            write(f"-- {step.title}", "BEGIN;", *(f"{statement};" for statement in step.statements), "COMMIT;", "")
        else:
            write_block(step.title, ())
    for note in notes:
        write_block(f"-- {note}" if dry_run else note, ())
    if not steps:
        write(none)


def _as_json(each: Partition) -> dict[str, object]:
    month = each.month
    bounds = None if month is None else (month.first_key(each.parent), month.plus(1).first_key(each.parent))
    return {
        "table": each.table,
        "parent": each.parent,
        "month": None if month is None else str(month),
        "state": each.state,
        "from": None if bounds is None else bounds[0].strip("'"),
        "to": None if bounds is None else bounds[1].strip("'"),
        "rows": each.rows,
        "bytes": each.bytes,
    }


def _size(bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if bytes < 1024:
            return f"{bytes:.0f} {unit}"
        bytes /= 1024
    return f"{bytes:.1f} TB"


def _check_dialect(url: str) -> None:
    if dialect_of(url) == "sqlite":
        fail("SQLite has no partitions: `actionengine retention run` deletes old rows there", ExitCode.USAGE)
