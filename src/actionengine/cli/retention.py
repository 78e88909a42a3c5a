"""`actionengine retention run`, `actionengine retention history` and `actionengine tenant purge`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from actionengine.cli.common import Json, SigningKey, example, imported_metadata, open_storage
from actionengine.cli.governed import ActorName
from actionengine.cli.maintenance import DryRun, Ignored, OwnerUrl, RecordedReason, chosen, maintaining, time_before
from actionengine.cli.output import compact, write_json
from actionengine.cli.terminal import iso, write, write_block
from actionengine.storage.sql.maintenance.host_tables import (
    count_host_rows,
    declared_tables,
    delete_host_rows,
    protected_tables,
)
from actionengine.storage.sql.maintenance.leaving import (
    Removed,
    count_rows,
    delete_own_rows,
    find_closed_tenant,
    own_tables,
    refuse_undelivered,
)
from actionengine.storage.sql.maintenance.retention import (
    MAX_BATCH,
    Batch,
    count_expired_keys,
    delete_old_events,
    delete_old_log,
)
from actionengine.storage.sql.maintenance.work import Maintenance, act_for, read_done

retention = typer.Typer(no_args_is_help=True, help="Rows that are kept for a time.")

KINDS = ("log", "events", "keys")
_TITLES = {"log": "rows of the action log", "events": "events", "keys": "expired keys and counters"}

BatchSize = Annotated[int, typer.Option("--batch", min=1, max=MAX_BATCH, help="Rows of one transaction.")]


@retention.callback()
def commands() -> None:
    """Delete rows that are older than a time, and show what was removed."""


@retention.command(epilog=example("retention run --older-than 13mo --dry-run", "retention run --older-than 13mo"))
def run(
    url: OwnerUrl,
    older_than: Annotated[
        str, typer.Option(help="Rows from before so long ago: 13mo, 90d, 2y, 12h, or before a date as 2027-01-01.")
    ],
    of: Annotated[
        list[str] | None, typer.Option("--of", help="log, events or keys; repeat. By default all of them.")
    ] = None,
    batch: BatchSize = 1000,
    ignore_projection: Ignored = None,
    actor: ActorName = None,
    reason: RecordedReason = None,
    signing_key: SigningKey = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Delete old rows, a batch in each transaction: of the action log with its subjects, principals and words, events,
    and idempotency keys and counters that have expired, whatever their age.

    An event stays while a queue has not delivered it, or a projection has not read it.
    """
    kinds, before = chosen(of, KINDS), time_before(older_than, datetime.now(UTC))
    results = []
    with maintaining(url, actor, reason) as maintenance:
        for kind in kinds:
            if kind == "keys":
                rows, kept = _purge_keys(maintenance, url, signing_key, batch, dry_run), 0
            else:
                batches = (
                    delete_old_log(maintenance, before, batch, dry_run)
                    if kind == "log"
                    else delete_old_events(maintenance, before, batch, dry_run, ignore_projection or ())
                )
                rows, kept = _sum(batches)
            results.append({"of": kind, "rows": rows, "kept": kept})
            if not json:
                done = "would be deleted" if dry_run else "deleted"
                still = f", {kept:,} are still needed" if kept else ""
                write(f"{rows:,} {_TITLES[kind]} {done}{still}")
    if json:
        write_json({"before": iso(before), "items": results, "dry_run": dry_run})


@retention.command(epilog=example("retention history --limit 20"))
def history(
    url: OwnerUrl,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most records.")] = 20,
    json: Json = False,
) -> None:
    """Show what retention, partitions and purges have removed: who, when, why, and how much."""
    with maintaining(url, None, None) as maintenance, maintenance.begin() as connection:
        found = read_done(connection, limit)
    if json:
        write_json({"items": [each._asdict() for each in found]})
        return
    for each in found:
        reason = () if each.reason is None else (f"reason: {each.reason}",)
        write_block(
            f"{iso(each.at)}  {each.operation}  {each.target}", (f"by {each.actor}", *reason, compact(each.details))
        )
    if not found:
        write("nothing was removed")


def purge_tenant(
    url: OwnerUrl,
    tenant: Annotated[str, typer.Option(help="The slug of a closed tenant.")],
    metadata: Annotated[
        str | None,
        typer.Option(help="module:attribute of a MetaData or declarative base: its protected tables are emptied too."),
    ] = None,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Delete also events that are not delivered yet.")
    ] = False,
    batch: BatchSize = 1000,
    actor: ActorName = None,
    reason: RecordedReason = None,
    signing_key: SigningKey = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Delete all rows of a closed tenant, a batch in each transaction. It can be repeated after it was stopped.

    The directory keeps the tenant, closed, so that its slug stays taken.
    """
    declared = None if metadata is None else imported_metadata(metadata)
    with maintaining(url, actor, reason) as maintenance:
        with maintenance.begin() as connection:
            id = find_closed_tenant(connection, tenant)
            if not undelivered:
                refuse_undelivered(connection, id)
            counted = [Removed(table, count_rows(connection, id, table)) for table in own_tables(connection)]
            act_for(connection, id, signing_key)
            protected = protected_tables(connection)
            hosts = [] if declared is None else declared_tables(connection, declared)
            emptied = {table.name for table in hosts}
        left = [each for each in protected if each.name not in emptied]
        if dry_run:
            counted += count_host_rows(maintenance, id, [each for each in protected if each not in left], signing_key)
            rows = {each.table: each.rows for each in counted if each.rows}
        else:
            rows = _totals(delete_host_rows(maintenance, tenant, id, hosts, batch, signing_key))
            rows |= _totals(delete_own_rows(maintenance, tenant, id, batch))
        remaining = {each.table: each.rows for each in count_host_rows(maintenance, id, left, signing_key)}
    if json:
        write_json({"tenant": tenant, "rows": rows, "remaining": remaining, "dry_run": dry_run})
        return
    for table, number in rows.items():
        write_block(f"{table}: {number:,} rows {'would be deleted' if dry_run else 'deleted'}", ())
    if not rows:
        write(f"the tenant {tenant!r} has no rows")
    for table, number in remaining.items():
        write_block(f"{table}: {number:,} rows remain: it is a table of the host (see --metadata)", ())


def _totals(removed: Iterable[Removed]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in removed:
        total[each.table] += each.rows
    return dict(total)


def _sum(batches: Iterable[Batch]) -> tuple[int, int]:
    rows = kept = 0
    for each in batches:
        rows, kept = rows + each.rows, kept + each.kept
    return rows, kept


def _purge_keys(maintenance: Maintenance, url: str, signing_key: str | None, batch: int, dry_run: bool) -> int:
    if dry_run:
        with maintenance.begin() as connection:
            return count_expired_keys(connection)
    purged = 0
    with open_storage(url, signing_key) as storage:
        while found := storage.purge_expired_keys(limit=batch):
            purged += found
    return purged
