"""Reading the action log: along one index, a bounded number of rows for a page.

A page takes two steps. The first walks along the index of the filter that finds the fewest rows, newest first, and
reads only the columns of the other filters. The second reads the rows of the page, up to the bytes of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

from actionengine.storage.pages import Page, page_of
from actionengine.storage.rows import EmittedEvent, EventLink, LogLink, LogQuery, LogRow, stored_values
from actionengine.storage.tables import Kind

if TYPE_CHECKING:
    from actionengine.storage.sql.rows import RowsDialect
    from actionengine.storage.sql.transaction import Transaction

MAX_EXAMINED = 1000
"""The most rows of the log that are examined for a page. It ends after these, even if few of them match."""

MAX_COUNTED = 5000
"""The most entries of an index that are counted, to find the filter with the fewest rows."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""The difference that is allowed between the time in a row's id and its `started_at`, in case the host's clock was set
between them."""

EXAMINED = (
    *("id", "actor_type", "actor_id", "action", "outcome", "started_at", "parent_id", "approval_id", "request_id"),
    *("idempotency_key", "on_behalf_of"),
)
"""The columns that the first step reads, in this order."""

EXACT_DRIVERS = ("parent_id", "approval_id", "request_id", "idempotency_key")
"""The columns of the log that have an index with the id behind them, and few rows of a value."""

DRIVERS = ("actor_id", "outcome", "action", "actor_type")
"""The other columns with such an index, those of the fewest rows first."""


class Examined(NamedTuple):
    """A row as the first step reads it. All but the id are None where the row of a subject, a principal or a word is
    gone."""

    id: UUID
    actor_type: str | None
    actor_id: str | None
    action: str | None
    outcome: str | None
    started_at: datetime | None
    parent_id: str | None
    approval_id: str | None
    request_id: str | None
    idempotency_key: str | None
    on_behalf_of: tuple[str, ...] = ()


class Walk(NamedTuple):
    """A walk of the first step: along the index of `column`, whose value is `value` (None: along the key), from below
    the id `above` down to the id `lowest`."""

    column: str | None
    value: str | None
    above: UUID
    lowest: UUID


class LogReader(Protocol):
    """The statements of a backend, in one transaction."""

    def find(self, walk: Walk, limit: int) -> Sequence[Examined]:
        """Walk over so many rows, newest first."""

    def count(self, walk: Walk, limit: int) -> int:
        """Return the number of rows of a walk, up to a limit, from its index alone."""

    def having(self, column: str, value: str, ids: Sequence[UUID]) -> Sequence[UUID]:
        """Return those of at most `MAX_EXAMINED` rows that have a `subject`, or a `word` of the reason."""

    def read(self, ids: Sequence[UUID]) -> Sequence[tuple[LogRow, int]]:
        """Return the rows with these ids, newest first, with their bytes, up to those of a page."""

    def read_upwards(self, ids: Sequence[str]) -> Sequence[tuple[LogRow, int]]:
        """Return the rows with these ids, oldest first, with their bytes, up to those of a page."""

    def linked(self, link: str, values: Sequence[str], limit: int) -> Sequence[str]:
        """Return the ids of rows by any of these values of a column, oldest first: so many of each, and of all."""

    def emitted(self, link: str, values: Sequence[str], limit: int) -> Sequence[EmittedEvent]:
        """Return events by any of these values of a column, oldest first: so many of each, and of all."""


@dataclass(frozen=True, slots=True)
class WalkStatements:
    """The statements of the first step, by the column of the walk: along the log, along a table beside it, and the
    number of rows."""

    find: Mapping[str | None, str]
    find_beside: Mapping[str, str]
    count: Mapping[str, str]


class LogWalks:
    """The first step of one transaction. A backend gives its statements and the form of its ids (`as_id`), and reads
    their rows by `examined`."""

    def __init__(
        self,
        transaction: Transaction,
        statements: WalkStatements,
        as_id: Callable[[UUID], Any],
        examined: Callable[..., Examined],
    ) -> None:
        self._query = transaction.query
        self._statements = statements
        self._as_id = as_id
        self._examined = examined
        self._tenant_id = as_id(transaction.tenant.id)

    def find(self, walk: Walk, limit: int) -> list[Examined]:
        """Walk over so many rows, newest first."""
        beside = self._statements.find_beside.get(walk.column or "")
        parameters = self._parameters(walk, limit)
        if beside is not None:
            rows = self._query(beside, (*parameters, self._tenant_id))
        else:
            rows = self._query(self._statements.find[walk.column], parameters)
        return [self._examined(*row) for row in rows]

    def count(self, walk: Walk, limit: int) -> int:
        """Return the number of rows of a walk, up to a limit."""
        assert walk.column is not None
        ((number,),) = self._query(self._statements.count[walk.column], self._parameters(walk, limit))
        return int(number)

    def _parameters(self, walk: Walk, limit: int) -> tuple[Any, ...]:
        values = (walk.value,) if walk.column is not None else ()
        return (self._tenant_id, *values, self._as_id(walk.above), self._as_id(walk.lowest), limit)


def find_log(log: LogReader, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
    """Return rows by any of these values of a column, oldest first."""
    values = list(dict.fromkeys(stored_values(link, values)))
    if not values:
        return Page()
    linked = values if link == "id" else log.linked(link, values, limit)
    # A row can have several of the subjects.
    ids = sorted(set(linked))[:limit]
    page = page_of(log.read_upwards(ids) if ids else (), limit, lambda row: row.id)
    if page and (len(page) < len(ids) or len(linked) >= limit):
        page.next = page[-1].id
    return page


def find_events(log: LogReader, link: EventLink, values: Sequence[str], limit: int) -> Page[EmittedEvent]:
    """Return events by any of these values of a column, oldest first."""
    values = list(dict.fromkeys(stored_values(link, values)))
    events = log.emitted(link, values, limit) if values else ()
    return page_of(((event, 0) for event in events), limit, lambda event: event.id)


def read_page(query: LogQuery, log: LogReader) -> Page[LogRow]:
    """Return the page of a query."""
    query = query.normal()
    walk = _walk_of(query, log)
    found: list[UUID] = []
    examined = 0
    next_id: UUID | None = walk.above
    while next_id is not None and len(found) < query.limit and examined < MAX_EXAMINED:
        # Most filters match many rows, so that few rows are examined at first.
        most = min(max(query.limit, examined), MAX_EXAMINED)
        rows = log.find(walk._replace(above=next_id), most)
        examined += len(rows)
        next_id = rows[-1].id if len(rows) == most else None
        found += _matching(query, walk, rows, log)
        if len(found) >= query.limit:
            del found[query.limit :]
            next_id = found[-1]
    page = page_of(log.read(found) if found else (), query.limit, lambda row: row.id)
    if page.next is None and next_id is not None:
        page.next = str(next_id)
    return page


def _matching(query: LogQuery, walk: Walk, rows: Sequence[Examined], log: LogReader) -> list[UUID]:
    """Return the rows that match the query, in their order."""
    ids = [row.id for row in rows if query.matches(row)]
    beside = [("subject", query.subject), *(("word", word) for word in query.words)]
    for column, value in beside:
        if ids and value is not None and (walk.column, walk.value) != (column, value):
            having = set(log.having(column, value, ids))
            ids = [id for id in ids if id in having]
    return ids


def _walk_of(query: LogQuery, log: LogReader) -> Walk:
    """Return the walk that a page takes: the first one over so few rows that one page examines all of them; if there is
    none, the one over the fewest."""
    walks = _walks_of(query)
    if len(walks) == 1:
        return walks[0]
    counts = []
    for walk in walks:
        counts.append(log.count(walk, MAX_COUNTED))
        if counts[-1] <= MAX_EXAMINED:
            return walk
    return walks[counts.index(min(counts))]


def _walks_of(query: LogQuery) -> list[Walk]:
    """Return the walks that a query allows, the one that probably finds the fewest rows first."""
    # Ids begin with their time, in milliseconds.
    above, lowest = UUID(int=(1 << 128) - 1), UUID(int=0)
    if query.until is not None:
        above = UUID(int=(_milliseconds(query.until) + _TOLERANCE + 1) << 80)
    if query.since is not None:
        lowest = UUID(int=max(0, _milliseconds(query.since) - _TOLERANCE) << 80)
    if query.before is not None:
        above = min(above, UUID(query.before))
    drivers = sorted(DRIVERS, key=lambda name: (name, query.outcome) == ("outcome", "succeeded"))
    values = [
        *((name, getattr(query, name)) for name in (*EXACT_DRIVERS, "subject", "principal")),
        *(("word", word) for word in sorted(query.words, key=len, reverse=True)),
        *((name, getattr(query, name)) for name in drivers),
    ]
    walks = [Walk(column, value, above, lowest) for column, value in values if value is not None]
    return walks or [Walk(None, None, above, lowest)]


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
    return _walk(table, dialect, column, examined_columns(dialect), "id")


def count_statement(table: str, dialect: RowsDialect, column: str, id: str = "id") -> str:
    """Return the statement that counts the rows of a walk, with the same parameters."""
    walk = _walk(table, dialect, column, id, id)
    return f"SELECT {dialect.count}\nFROM (\n{indent(walk, ' ' * 4)}\n) walked"


def _walk(table: str, dialect: RowsDialect, column: str | None, columns: str, id: str) -> str:
    operator, mark = dialect.operator, dialect.mark
    driving = f" AND {column} {operator.format('=')} {mark}" if column is not None else ""
    return (
        f"SELECT {columns}\nFROM {table}\n"
        f"WHERE tenant_id {operator.format('=')} {mark}{driving}\n"
        f"    AND {id} {operator.format('<')} {mark} AND {id} {operator.format('>=')} {mark}\n"
        f"ORDER BY {id} DESC\nLIMIT {dialect.limit}"
    )
