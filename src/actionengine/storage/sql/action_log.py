"""Reading the action log: along one index, a bounded number of rows for a page.

A page takes two steps. The first walks along the index of the filter that finds the fewest rows, newest first, and
reads only the columns of the other filters. The second reads the rows of the page, up to the bytes of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.pages import Page, page_of
from actionengine.storage.rows import LogQuery, LogRow
from actionengine.storage.tables import Kind

if TYPE_CHECKING:
    from actionengine.storage.sql.rows import RowsDialect

MAX_EXAMINED = 1000
"""The most rows of the log that are examined for a page. It ends after these, even if few of them match."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""The difference that is allowed between the time in a row's id and its `started_at`, in case the host's clock was set
between them."""

EXAMINED = ("id", "actor_type", "actor_id", "action", "outcome", "started_at", "on_behalf_of")
"""The columns that the first step reads, in this order."""

DRIVERS = ("actor_id", "outcome", "action", "actor_type")
"""The columns of the log that have an index with the id behind them, those of the fewest rows first."""


class Examined(NamedTuple):
    """A row as the first step reads it. All but the id are None where the row of a subject or of a principal is
    gone."""

    id: UUID
    actor_type: str | None
    actor_id: str | None
    action: str | None
    outcome: str | None
    started_at: datetime | None
    on_behalf_of: tuple[str, ...] = ()


class Walk(NamedTuple):
    """The walk of the first step: along the index of `column`, whose value is `value` (None: along the key), from below
    the id `above` down to the id `lowest`."""

    column: str | None
    value: str | None
    above: UUID
    lowest: UUID


def log_id(text: str) -> UUID:
    """Return an id of the action log. Raise `ActionError(invalid_input)` for a text that is not a UUID."""
    try:
        return UUID(text)
    except ValueError:
        raise ActionError(ErrorCode.INVALID_INPUT, f"{text!r} is not an id of the action log") from None


def read_page(
    query: LogQuery,
    find: Callable[[Walk, int], Sequence[Examined]],
    read: Callable[[Sequence[UUID]], Sequence[tuple[LogRow, int]]],
) -> Page[LogRow]:
    """Return the page of a query. `find` walks over so many rows; `read` returns rows with their bytes, newest first,
    up to the bytes of a page."""
    walk = _walk_of(query)
    found: list[UUID] = []
    examined = 0
    next_id: UUID | None = walk.above
    while next_id is not None and len(found) < query.limit and examined < MAX_EXAMINED:
        # Most filters match many rows, so that few rows are examined at first.
        most = min(max(query.limit, examined), MAX_EXAMINED)
        rows = find(walk._replace(above=next_id), most)
        examined += len(rows)
        next_id = rows[-1].id if len(rows) == most else None
        for row in rows:
            if query.matches(row):
                found.append(row.id)
                if len(found) == query.limit:
                    next_id = row.id
                    break
    page = page_of(read(found) if found else (), query.limit, lambda row: row.id)
    if page.next is None and next_id is not None:
        page.next = str(next_id)
    return page


def _walk_of(query: LogQuery) -> Walk:
    # Ids begin with their time, in milliseconds.
    above, lowest = UUID(int=(1 << 128) - 1), UUID(int=0)
    if query.until is not None:
        above = UUID(int=(_milliseconds(query.until) + _TOLERANCE + 1) << 80)
    if query.since is not None:
        lowest = UUID(int=max(0, _milliseconds(query.since) - _TOLERANCE) << 80)
    if query.before is not None:
        above = min(above, log_id(query.before))
    drivers = (
        "subject",
        "principal",
        *sorted(DRIVERS, key=lambda name: (name, query.outcome) == ("outcome", "succeeded")),
    )
    for column in drivers:
        value = getattr(query, column)
        if value is not None:
            return Walk(column, value, above, lowest)
    return Walk(None, None, above, lowest)


_TOLERANCE = int(CLOCK_TOLERANCE / timedelta(milliseconds=1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _milliseconds(time: datetime) -> int:
    return max(0, (time - _EPOCH) // timedelta(milliseconds=1))


def examined_columns(dialect: RowsDialect, log: str = "") -> str:
    """Return the columns that the first step reads, each with this prefix; with one, all but the id."""
    kinds: dict[str, Kind] = {"on_behalf_of": "json"}
    columns = EXAMINED[1:] if log else EXAMINED
    return ", ".join(dialect.read[kinds.get(name, "text")].format(name=f"{log}{name}") for name in columns)


def walk_statement(table: str, dialect: RowsDialect, column: str | None) -> str:
    """Return the statement of the first step along the log itself: its parameters are the tenant, the value of the
    column, if any, the ids to go down from and to, and the limit."""
    operator, mark = dialect.operator, dialect.mark
    driving = f" AND {column} {operator.format('=')} {mark}" if column is not None else ""
    return (
        f"SELECT {examined_columns(dialect)}\nFROM {table}\n"
        f"WHERE tenant_id {operator.format('=')} {mark}{driving}\n"
        f"    AND id {operator.format('<')} {mark} AND id {operator.format('>=')} {mark}\n"
        f"ORDER BY id DESC\nLIMIT {dialect.limit}"
    )
