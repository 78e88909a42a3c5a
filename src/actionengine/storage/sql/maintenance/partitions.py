"""Monthly partitions of the action log and of the events on PostgreSQL: make, list, detach and drop them.

Each month has a partition, and rows of other months are in the default one: those from before the first `make`, and
those of a host whose clock is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.sql.maintenance import partition_statements as sql
from actionengine.storage.sql.maintenance.months import EVENTS, GROUPS, KEYS, Month
from actionengine.storage.sql.maintenance.unread import unread_events
from actionengine.storage.sql.maintenance.work import Maintenance

MAX_MONTHS = 120
"""The most months that one call makes ahead."""

MAX_SCANNED_BYTES = 64 << 20
"""The size of a default partition that is scanned while it is locked. A larger one is scanned before."""

State = Literal["attached", "default", "detached", "whole"]

_RELATIONS = """
SELECT c.relname, c.relkind::text, p.relname, greatest(c.reltuples, -1)::bigint, pg_total_relation_size(c.oid), ARRAY(
    SELECT conname::text FROM pg_constraint WHERE conrelid = c.oid AND starts_with(conname::text, 'ae_making_')
), EXISTS (
    SELECT FROM pg_constraint
    WHERE conrelid = c.oid AND starts_with(conname::text, 'ae_making_') AND NOT convalidated
)
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
LEFT JOIN pg_class p ON p.oid = i.inhparent
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~ :names
ORDER BY c.relname
"""
_DEPENDENTS = """
SELECT DISTINCT CASE d.classid
    WHEN 'pg_rewrite'::regclass THEN 'the view ' || (SELECT ev_class::regclass FROM pg_rewrite WHERE oid = d.objid)
    WHEN 'pg_proc'::regclass THEN 'the function ' || d.objid::regprocedure
    WHEN 'pg_publication_rel'::regclass THEN 'the publication ' || (
        SELECT quote_ident(p.pubname) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE r.oid = d.objid
    )
    WHEN 'pg_constraint'::regclass THEN 'the foreign key ' || (
        SELECT conrelid::regclass || '.' || quote_ident(conname) FROM pg_constraint WHERE oid = d.objid
    )
END AS name
FROM pg_depend d
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY(
    SELECT to_regclass('public.' || name) FROM unnest(CAST(:tables AS text[])) name
) AND d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_publication_rel'::regclass,
    'pg_constraint'::regclass) AND NOT EXISTS (
    SELECT FROM pg_constraint own WHERE d.classid = 'pg_constraint'::regclass AND own.oid = d.objid
        AND own.conrelid = d.refobjid
)
ORDER BY 1
"""
_CHECK_VIOLATION = "23514"
_MAX_VIOLATIONS = 3
_LAST_POSITION = "SELECT last_value FROM public.ae_event_position"
_LOCK = "SELECT pg_try_advisory_xact_lock(1634037602, 1000)"


class Partition(NamedTuple):
    """A partition, or a table that is not partitioned (`whole`). `month` is None for a default partition and a whole
    table, `rows` an estimate, None if the database has none yet."""

    table: str
    parent: str
    month: Month | None
    state: State
    rows: int | None
    bytes: int


class Step(NamedTuple):
    """Statements that run in one transaction."""

    title: str
    statements: Sequence[str]
    details: dict[str, Any]


class Plan(NamedTuple):
    """The steps that are left, and what they leave out."""

    steps: list[Step]
    notes: list[str]


class _Tables:
    """The library's partitioned tables as the database has them."""

    def __init__(self, connection: Connection) -> None:
        names = f"^({'|'.join(KEYS)})(_default|_20[0-9][0-9]_[0-9][0-9])?$"
        self.kinds: dict[str, str] = {}
        self.partitions: list[Partition] = []
        self.proofs: dict[str, list[str]] = {}
        self.unproven: set[str] = set()
        for name, kind, parent, rows, bytes, proofs, is_unproven in connection.execute(
            text(_RELATIONS), {"names": names}
        ):
            self.kinds[name] = kind
            if proofs:
                self.proofs[name] = list(proofs)
            if is_unproven:
                self.unproven.add(name)
            if kind != "p":
                self.partitions.append(_partition(name, parent, None if rows < 0 else rows, bytes))

    def is_partitioned(self, group: str) -> bool:
        return all(self.kinds.get(table) == "p" for table in GROUPS[group])

    def months(self, parent: str, state: str) -> set[Month]:
        return {each.month for each in self.partitions if (each.parent, each.state) == (parent, state) and each.month}

    def bytes_of_default(self, group: str) -> int:
        wanted = {f"{table}_default" for table in GROUPS[group]} | set(GROUPS[group])
        return max((each.bytes for each in self.partitions if each.table in wanted), default=0)


def _partition(name: str, parent: str | None, rows: int | None, bytes: int) -> Partition:
    if name.endswith("_default"):
        return Partition(name, name.removesuffix("_default"), None, "default", rows, bytes)
    found = re.fullmatch(r"(\w+)_(20\d\d_\d\d)", name)
    if found is None:
        return Partition(name, name, None, "whole", rows, bytes)
    return Partition(
        name, found[1], Month.parse(found[2]), "attached" if parent == found[1] else "detached", rows, bytes
    )


def list_partitions(connection: Connection) -> list[Partition]:
    """Return the partitions of the action log and of the events, also detached ones, by table and month."""
    order = {parent: number for number, parent in enumerate(KEYS)}
    return sorted(
        _Tables(connection).partitions, key=lambda each: (order[each.parent], each.month or Month(2000, 1), each.table)
    )


# Make


def plan_make(connection: Connection, groups: Sequence[str], months: int, now: datetime) -> Plan:
    """Return the steps after which this month and so many later ones have partitions."""
    tables = _Tables(connection)
    plan = Plan([], [])
    for group in groups:
        _plan_group(connection, tables, group, Month.of(now), months, plan)
    if EVENTS in groups:
        month = Month.of(now)
        is_made = month in tables.months("ae_events", "attached") or any(
            str(month) in step.details.get("months", ()) for step in plan.steps if step.details["of"] == EVENTS
        )
        last = connection.exec_driver_sql(_LAST_POSITION).scalar_one()
        if is_made and last < month.first_position - 1:
            details = {"of": EVENTS, "position": month.first_position}
            plan.steps.append(Step(f"events: new ones get positions of {month}", [sql.move_sequence(month)], details))
    return plan


def _plan_group(connection: Connection, tables: _Tables, group: str, current: Month, ahead: int, plan: Plan) -> None:
    if not tables.is_partitioned(group):
        _refuse_dependents(connection, group)
        plan.steps.append(
            Step(
                f"{group}: the tables become default partitions",
                sql.convert(connection, group),
                {"of": group, "tables": list(GROUPS[group])},
            )
        )
    first = GROUPS[group][0]
    made = tables.months(first, "attached")
    wanted: list[Month] = []
    for month in map(current.plus, range(ahead + 1)):
        if month in made:
            continue
        if month in tables.months(first, "detached"):
            plan.notes.append(f"{group}: {month} was detached: rows of it go to the default partition")
        elif connection.exec_driver_sql(f"SELECT {sql.has_rows(first, month)}").scalar():
            plan.notes.append(
                f"{group}: {month} gets no partition, because the default partition holds rows of it. They stay there: "
                "`actionengine retention run` deletes them in time"
            )
        else:
            wanted.append(month)
    runs = list(_runs(wanted))
    needed = {_proof(run) for run in runs}
    for name in sorted({each for table in GROUPS[group] for each in tables.proofs.get(f"{table}_default", ())}):
        if name not in needed:
            plan.steps.append(
                Step(
                    f"{group}: drop the constraint {name} of a run that was interrupted",
                    sql.drop_proof(group, name),
                    {"of": group, "constraint": name},
                )
            )
    is_large = tables.bytes_of_default(group) > MAX_SCANNED_BYTES
    for run in runs:
        plan.steps.extend(_make_run(connection, tables, group, run, is_large))


def _make_run(
    connection: Connection, tables: _Tables, group: str, run: Sequence[Month], is_large: bool
) -> Iterator[Step]:
    name = _proof(run)
    label = str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}"
    details = {"of": group, "months": [str(month) for month in run]}
    defaults = [f"{table}_default" for table in GROUPS[group]]
    if is_large:
        if not all(name in tables.proofs.get(default, ()) for default in defaults):
            yield Step(
                f"{group}: a constraint that no row of the default partitions is of {label}",
                [*sql.drop_proof(group, name), *sql.add_proof(group, name, run)],
                details,
            )
            yield Step(f"{group}: scan the default partitions", sql.validate_proof(group, name), details)
        elif any(default in tables.unproven for default in defaults):
            yield Step(f"{group}: scan the default partitions", sql.validate_proof(group, name), details)
    yield Step(
        f"{group}: make the partitions of {label}",
        sql.make(connection, group, run, name if is_large else None),
        details,
    )


def make_partitions(
    maintenance: Maintenance, groups: Sequence[str], months: int, now: datetime, *, dry_run: bool = False
) -> Plan:
    """Make the partitions of this month and of so many later ones, if they are missing. Return what was done, or, in a
    dry run, what would be done.

    It can be repeated at any time, also after it was killed. Raise `ActionError(conflict)` while other transactions
    hold the tables, or another call works on them.
    """
    if dry_run:
        with maintenance.begin() as connection:
            return plan_make(connection, groups, months, now)
    done: list[Step] = []
    violations = 0
    while True:
        try:
            step, notes = maintenance.with_retry(
                lambda connection: _make_next(maintenance, connection, groups, months, now)
            )
        except DBAPIError as error:
            # A host has written such a row since the plan was made: the next plan leaves that month out.
            violations += 1
            if getattr(error.orig, "sqlstate", None) != _CHECK_VIOLATION or violations == _MAX_VIOLATIONS:
                raise
            continue
        if step is None:
            return Plan(done, notes)
        done.append(step)


def _make_next(
    maintenance: Maintenance, connection: Connection, groups: Sequence[str], months: int, now: datetime
) -> tuple[Step | None, list[str]]:
    _keep_others_out(connection)
    plan = plan_make(connection, groups, months, now)
    if not plan.steps:
        return None, plan.notes
    step = plan.steps[0]
    _run(connection, step.statements)
    maintenance.record(connection, "partition.make", step.title, step.details)
    return step, plan.notes


def _refuse_dependents(connection: Connection, group: str) -> None:
    names = [name for (name,) in connection.execute(text(_DEPENDENTS), {"tables": list(GROUPS[group])}) if name]
    if names:
        raise ActionError(
            ErrorCode.CONFLICT,
            f"the tables of the {group} cannot be partitioned while other objects name them: {', '.join(names)}. These "
            "would keep to the rows of today: drop them, run the command again, and create them again",
        )


def _runs(months: Sequence[Month]) -> Iterator[list[Month]]:
    run: list[Month] = []
    for month in months:
        if run and month != run[-1].plus(1):
            yield run
            run = []
        run.append(month)
    if run:
        yield run


def _proof(run: Sequence[Month]) -> str:
    return f"ae_making{run[0].table('')}{run[-1].table('')}"


# Detach and drop


def plan_detach(connection: Connection, groups: Sequence[str], month: Month, now: datetime) -> list[Step]:
    """Return the steps that detach the partitions of a month. Raise `ActionError`: `conflict` for a month that has not
    ended, `not_found` if it has no partition."""
    if month >= Month.of(now):
        raise ActionError(ErrorCode.CONFLICT, f"{month} has not ended: its partition is still written to")
    tables = _Tables(connection)
    steps = []
    # The events first: they may be refused, and then the log stays too.
    for group in sorted(groups, key=lambda group: group != EVENTS):
        found = [table for table in GROUPS[group] if month in tables.months(table, "attached")]
        if found:
            statements = [sql.lock_parents(found), *sql.detach(found, month)]
            steps.append(Step(f"{group}: detach {month}", statements, {"of": group, "month": str(month)}))
    if not steps and not any(month in tables.months(table, "detached") for group in groups for table in GROUPS[group]):
        raise ActionError(
            ErrorCode.NOT_FOUND,
            f"there is no partition of {month}: `actionengine db partition list` shows those there are",
        )
    return steps


def detach_partitions(
    maintenance: Maintenance,
    groups: Sequence[str],
    month: Month,
    now: datetime,
    ignored: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> list[Step]:
    """Detach the partitions of a month. Return what was or would be done: nothing, if they are detached already.

    Raise `ActionError(conflict)` for events that are not delivered, or that a projection has not read, except for the
    projections named in `ignored`.
    """
    with maintenance.begin() as connection:
        steps = plan_detach(connection, groups, month, now)
        if dry_run:
            if any(step.details["of"] == EVENTS for step in steps):
                _refuse_unread(connection, month, ignored)
            return steps
    for step in steps:
        maintenance.with_retry(partial(_detach, maintenance, step=step, month=month, ignored=ignored))
    return steps


def _detach(
    maintenance: Maintenance, connection: Connection, *, step: Step, month: Month, ignored: Sequence[str]
) -> None:
    _keep_others_out(connection)
    _run(connection, step.statements[:1])
    if step.details["of"] == EVENTS:
        _refuse_unread(connection, month, ignored)
    _run(connection, step.statements[1:])
    maintenance.record(connection, "partition.detach", str(month), step.details)


def _refuse_unread(connection: Connection, month: Month, ignored: Sequence[str]) -> None:
    needed = unread_events(connection, month.first_position, month.plus(1).first_position, ignored)
    if needed:
        raise ActionError(ErrorCode.CONFLICT, f"the events of {month} are still needed: {'; '.join(needed)}")


def plan_drop(connection: Connection, groups: Sequence[str], month: Month, attached: bool = False) -> list[Step]:
    """Return the steps that drop the detached partitions of a month; with `attached`, those that are not detached yet
    too. Raise `ActionError`: `conflict` for one that is not detached, `not_found` if there is none."""
    tables = _Tables(connection)
    steps = []
    for group in groups:
        if not attached and any(month in tables.months(table, "attached") for table in GROUPS[group]):
            raise ActionError(
                ErrorCode.CONFLICT, f"{month} is not detached: run `actionengine db partition detach {month}` first"
            )
        states = ("attached", "detached") if attached else ("detached",)
        found = [
            month.table(table)
            for table in GROUPS[group]
            if any(month in tables.months(table, state) for state in states)
        ]
        if found:
            statements = [f"DROP TABLE {', '.join(f'public.{name}' for name in found)}"]
            if group == EVENTS:
                statements.append(
                    f"DELETE FROM public.ae_outbox WHERE skipped AND position >= {month.first_position}"
                    f" AND position < {month.plus(1).first_position}"
                )
            steps.append(
                Step(f"{group}: drop {month}", statements, {"of": group, "month": str(month), "tables": found})
            )
    if not steps:
        raise ActionError(ErrorCode.NOT_FOUND, f"there is no detached partition of {month}")
    return steps


def drop_partitions(
    maintenance: Maintenance, groups: Sequence[str], month: Month, *, dry_run: bool = False, attached: bool = False
) -> list[Step]:
    """Drop the detached partitions of a month, with all their rows. Return what was done, or would be: with `attached`,
    as if all were detached."""
    with maintenance.begin() as connection:
        steps = plan_drop(connection, groups, month, attached)
    if dry_run:
        return steps
    return [maintenance.with_retry(partial(_drop, maintenance, step=step)) for step in steps]


def _drop(maintenance: Maintenance, connection: Connection, *, step: Step) -> Step:
    rows = {
        name: connection.exec_driver_sql(f"SELECT count(*) FROM public.{name}").scalar_one()
        for name in step.details["tables"]
    }
    _run(connection, step.statements)
    done = step._replace(details={**step.details, "rows": rows})
    maintenance.record(connection, "partition.drop", step.details["month"], done.details)
    return done


def ended_before(connection: Connection, groups: Sequence[str], time: datetime) -> list[Month]:
    """Return the months with a partition, attached or detached, that ended before a time, oldest first."""
    tables = _Tables(connection)
    found = {
        month
        for group in groups
        for table in GROUPS[group]
        for state in ("attached", "detached")
        for month in tables.months(table, state)
    }
    return sorted(month for month in found if month.plus(1).start <= time)


def _keep_others_out(connection: Connection) -> None:
    if not connection.exec_driver_sql(_LOCK).scalar():
        raise ActionError(ErrorCode.CONFLICT, "another command works on the partitions: run this one again afterwards")


def _run(connection: Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execution_options(no_parameters=True).exec_driver_sql(statement)
