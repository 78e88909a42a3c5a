"""The storage ports: what the pipeline asks of a backend, and the rows that go through.

A backend implements `Storage` and `UnitOfWork`; the suite in `actionengine.testing` says whether it does so rightly.
The coroutines of a unit of work in the mode `"sync"` never suspend: the pipeline drives them without an event loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from uuid import UUID

from actionengine.concurrency.run_sync import Mode
from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_NAME_LENGTH, Tenant
from actionengine.storage.pages import Page
from actionengine.storage.tables import Row, Table

T = TypeVar("T")

Outcome = Literal["succeeded", "replayed", "invalid", "denied", "approval_required", "failed"]

RESERVED_PREFIX = "ae_"
"""Collections of this prefix are the library's own; a handler cannot open them."""

MAX_SUBJECT_LENGTH = MAX_NAME_LENGTH
"""Characters of a subject that the action log keeps, and looks for: an index has no room for more."""

MAX_FLUSHED_SUBJECTS = 100
"""Rows of a host's own tables that one execution names as subjects by itself."""

UNNAMED_ROWS = "*"
"""The key in a subject that stands for rows which are not named one by one."""

ROLES = "ae_roles"
ROLE_ASSIGNMENTS = "ae_role_assignments"
APPROVALS = "ae_approvals"
ROLE_COLLECTIONS = frozenset({ROLES, ROLE_ASSIGNMENTS})
"""A commit that writes to one of these moves the tenant's `access_version`."""

EVENTS = "events"
WORKFLOWS = "workflows"
TRIGGERS = "triggers"
QUEUES = (EVENTS, WORKFLOWS, TRIGGERS)
"""The queues of the outbox: the host's, which every event goes into; what moves runs on; and what may trigger some.
Each has an order of its own, dead letters of its own, and relays of its own."""


class StorageError(Exception):
    """A backend could not do its work."""


class StorageUnavailable(StorageError):
    """The backend is out of reach or exhausted: `unavailable`."""


class StorageTimeout(StorageUnavailable):
    """The backend did not answer in time: it need not be asked again."""


class SerializationFailure(StorageError):
    """The transaction lost against another one; running the unit of work again may succeed (SQLSTATE 40001, 40P01)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document of a collection. `version` starts at 1 and grows with each update; times are UTC."""

    id: str
    version: int
    data: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class LogRow(NamedTuple):
    """One execution in the action log. JSON columns are bytes, masked; `latency` is in seconds, times are UTC."""

    id: str
    parent_id: str | None
    tenant_id: UUID
    actor_type: str | None
    actor_id: str | None
    approved_by: str | None
    approval_id: str | None
    source: str
    reason: str | None
    action: str
    subjects: tuple[str, ...]
    input: bytes | None
    output: bytes | None
    outcome: Outcome
    error: bytes | None
    decision: str | None
    started_at: datetime
    latency: float
    idempotency_key: str | None
    request_id: str | None
    model: str | None
    prompt_version: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None

    def reduced(self) -> LogRow:
        """Return the form of a failure's row that no storage can refuse: who asked, for which action, and the code of
        the error. Everything else is left out, and the row says so."""
        return LogRow(
            self.id,
            self.parent_id,
            self.tenant_id,
            self.actor_type,
            self.actor_id and _ascii(self.actor_id, MAX_ACTOR_ID_LENGTH),
            None,
            None,
            _ascii(self.source, MAX_NAME_LENGTH),
            None,
            self.action,
            (),
            None,
            None,
            self.outcome,
            b'{"code":"%b","message":"%b","details":{"reduced":true}}' % (_error_code(self.error), _REDUCED),
            None,
            self.started_at,
            self.latency,
            *(None,) * 7,
        )


_REDUCED = b"the storage refused the whole row of this failure: the rest is left out"
_CODE = re.compile(rb'"code":"([a-z_]+)"')


def _error_code(error: bytes | None) -> bytes:
    found = _CODE.search(error) if error is not None else None
    return found[1] if found is not None else b"internal"


def _ascii(text: str, max_length: int) -> str:
    return text.replace("\0", "\\0").encode("ascii", "backslashreplace").decode()[:max_length]


class EventRow(NamedTuple):
    """An event on its way to the event log and the outbox. `payload` is JSON, masked."""

    id: str
    tenant_id: UUID
    type: str
    subject: str | None
    payload: bytes
    action: str
    action_id: str
    actor_type: str | None
    actor_id: str | None
    occurred_at: datetime
    version: int = 1


class StoredEvent(NamedTuple):
    """An event as the event log has it; `position` grows in commit order."""

    position: int
    event: EventRow


class PendingEvent(NamedTuple):
    """An event that a relay has taken from the outbox; `attempts` to deliver it have failed so far."""

    position: int
    event: EventRow
    attempts: int


class FailedDelivery(NamedTuple):
    """An attempt to deliver an event that has failed; the next is due in `retry_in` seconds. None: it is a dead letter
    from now on. `counts` says whether the attempt is one of those that an event has."""

    pending: PendingEvent
    reason: str
    retry_in: float | None
    counts: bool = True


class DeadLetter(NamedTuple):
    """An event that is not tried any more, since `since`; `skipped` where an operator has given it up."""

    event: EventRow
    attempts: int
    reason: str
    since: datetime
    skipped: bool
    queue: str = EVENTS


class RelayHeartbeat(NamedTuple):
    """What a relay tells of itself every few seconds: `rate` is events a second since the beat before, `error` what
    keeps it from its work at the moment."""

    id: str
    name: str
    publisher: str
    started_at: datetime
    seen_at: datetime
    delivered: int
    failed: int
    rate: float
    error: str | None
    queue: str = EVENTS


MAX_COUNTED_LAG = 10_000
"""What the numbers of an `OutboxStatus`, and the lag of a projection, count to: it stands for that many or more."""


class OutboxStatus(NamedTuple):
    """What is still to be delivered from one queue, over all tenants: `pending` events, of which `waiting` wait for
    another attempt; `dead` letters, and those that were `skipped`; since when the `oldest` pending one waits; the
    `relays` that have told of themselves within a minute, the one that has started first before the others; how many of
    the pending events a relay has found `held` back by dead letters, or by events that wait for another attempt.

    Each number counts to 10 000, which stands for that many or more."""

    pending: int
    waiting: int
    dead: int
    skipped: int
    oldest: datetime | None
    relays: Sequence[RelayHeartbeat]
    held: int = 0


MAX_BACKLOG = 10_000
"""What the numbers of a `Backlog` count to."""


class Backlog(NamedTuple):
    """What waits for people, and for its time, over all tenants: `approvals` that can still be decided, and since when
    the `oldest_approval` of them waits; `schedules` that are in use. The numbers count to 10 000."""

    approvals: int
    oldest_approval: datetime | None
    schedules: int


class Claim(NamedTuple):
    """An idempotency claim: `key` in the scope of the tenant and `action` (`service.action`).

    `replaces` names a pending approval whose hold on the key this claim may take over.
    """

    action: str
    key: str
    fingerprint: str
    replaces: str | None = None


class ClaimAnswer(NamedTuple):
    """What became of a claim.

    `claimed`: ours until the unit of work ends. `replay`: committed with this fingerprint, and `result` is its JSON, or
    `approval_id` names the approval that it waits for; `asked` is what was recorded with it. `mismatch`: committed with
    another payload. `in_progress`: still held when the wait was over.
    """

    status: Literal["claimed", "replay", "mismatch", "in_progress"]
    result: bytes | None = None
    approval_id: str | None = None
    asked: bytes | None = None


CLAIMED = ClaimAnswer("claimed")


class IdempotentResult(NamedTuple):
    """The answer of a claimed key from now on, until `expires_at`: a result (JSON) or a pending approval.

    `asked` is what the execution asked of the authorizer, as JSON: a replay asks it again.
    """

    claim: Claim
    result: bytes | None
    approval_id: str | None
    expires_at: datetime
    asked: bytes | None = None


class Route(NamedTuple):
    """A queue that events go into besides the host's: those of these types, or all."""

    queue: str
    types: frozenset[str] | None = None

    def takes(self, event: EventRow) -> bool:
        """Return whether an event goes into the queue."""
        return self.types is None or event.type in self.types


class Recording(NamedTuple):
    """Everything that one execution writes about itself, in one statement where the backend can.

    The events go into the queue `events` of the outbox, and into those of the `routes`, which are the same for all
    recordings of one unit of work.
    """

    log: Sequence[LogRow]
    events: Sequence[EventRow] = ()
    results: Sequence[IdempotentResult] = ()
    routes: Sequence[Route] = ()


class LoggedExecution(Protocol):
    """The part of a row of the action log that a `LogQuery` compares."""

    @property
    def actor_type(self) -> str | None:
        """Return the actor's type."""

    @property
    def actor_id(self) -> str | None:
        """Return the actor's id."""

    @property
    def action(self) -> str | None:
        """Return the full name of the action."""

    @property
    def outcome(self) -> str | None:
        """Return the outcome."""

    @property
    def started_at(self) -> datetime | None:
        """Return the start, in UTC; None for a row that is gone."""


class LogQuery(NamedTuple):
    """A question to the action log; newest first, `before` is the id to page on from."""

    subject: str | None = None
    actor_type: str | None = None
    actor_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None
    limit: int = 50

    def matches(self, row: LoggedExecution) -> bool:
        """Return whether a row is what the query asks for, its subject and `before` aside."""
        return (
            row.started_at is not None
            and (self.actor_type is None or row.actor_type == self.actor_type)
            and (self.actor_id is None or row.actor_id == self.actor_id)
            and (self.action is None or row.action == self.action)
            and (self.outcome is None or row.outcome == self.outcome)
            and (self.since is None or row.started_at >= self.since)
            and (self.until is None or row.started_at < self.until)
        )


class AsyncRecords(Protocol):
    """A tenant's documents of one collection.

    Each method raises `ActionError`: `conflict` for a taken id or a stale version, `not_found` for an id to change
    that is not there, `invalid_input` for data that JSON cannot carry.
    """

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document; without an `id` it gets one that sorts by time."""

    async def get(self, id: str) -> Record | None:
        """The document, or None."""

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`."""

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`."""

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000.

        `descending` goes the other way, and `after` with it: where the ids are the library's, the newest come first.
        The page also ends once its documents have 4 MiB of JSON. Its `next` is the `after` of the following page, or
        None where this is the last one.
        """


class StoredRecords(AsyncRecords, Protocol):
    """A collection as a unit of work has it: documents can be locked, too."""

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document, which nobody else changes or deletes until this transaction ends; raise where `update`
        would."""


class AsyncRows(Protocol):
    """A tenant's rows of one of the library's own tables. Each method is one statement, however many rows there are.

    Each method that writes raises `ActionError`: `conflict` for a taken key, or for what the database refuses.
    """

    async def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        above: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] | None = None,
        limit: int | None = None,
        lock: bool = False,
        descending: bool = False,
    ) -> list[Row]:
        """Rows whose columns equal what `where` says (a value, None, or a tuple of values, any of which will do), and
        are greater than what `above` says. They have all columns, or those named, and come in ascending `order`, or in
        `descending`: by the table's key, where nothing else is said. A page, of at most `limit`, also ends once its
        rows have 4 MiB of JSON. With `lock`, nobody else changes or locks them until the end of the unit of work;
        where somebody has, this waits, and sees, as does what is read from then on, what they have committed."""

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows, all columns given."""

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key, to the other columns that are given, the same in each row. A row that is not
        there is `conflict`."""

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows, found as by `find`; how many there were."""


class UnitOfWork(Protocol):
    """One transaction for one tenant. Its first use opens it; after `commit` or `rollback` it refuses.

    The threads and tasks of a handler may use it at once, for the first time too. All of them work in the one
    transaction, or are refused with a `StorageError`; and where one of them is inside a savepoint, what others would
    write, and would lose with it, is refused.
    """

    async def now(self) -> datetime:
        """Return the time, in UTC, by the one clock that all processes of this storage share: the database's, where
        there is one. What comes to an end at a stored time is compared with this, and was stored by it."""

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim an idempotency key, waiting up to `wait` seconds for another unit of work that holds it."""

    def records(self, collection: str) -> StoredRecords:
        """The collection as this transaction sees it."""

    def rows(self, table: Table) -> AsyncRows:
        """The rows of one of the library's own tables, as this transaction sees them."""

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Rows of the action log, committed ones, newest first. A page also ends once its rows have 4 MiB of JSON, and
        once as many rows were looked at as the backend bounds; its `next` is the `before` of the following page."""

    async def last_position(self) -> int:
        """Return the position of the tenant's last event that has committed, as this transaction sees it; 0 where there
        is none."""

    @property
    def session(self) -> Any:
        """The SQLAlchemy session, where there is one; raises `StorageError` where not."""

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy async session, where there is one; raises `StorageError` where not."""

    async def savepoint(self, read_only: bool = False) -> object:
        """A point to roll back to. After one that is `read_only` nothing is written until it is rolled back or
        released, not by a handler's own SQL either."""

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since."""

    async def release(self, savepoint: object) -> None:
        """Forget a savepoint, keeping what was written since."""

    async def flushed_subjects(self) -> Sequence[str]:
        """Write what is pending in the session; return a subject (`table/key`) for each row of a host's own tables that
        it has changed since this was last called, without those that were rolled back. Where there is no session, there
        are none."""

    async def record(self, recording: Recording) -> None:
        """Write log rows, events (with their outbox rows) and idempotent results."""

    async def commit(self) -> None:
        """Make it so. Raises `SerializationFailure` or `StorageUnavailable`; then nothing was written."""

    async def rollback(self) -> None:
        """Undo everything. Never raises, may be called again."""

    def set_deadline(self, seconds: float) -> None:
        """The execution has this long; a backend that would wait longer for its database gives up then, as
        `StorageUnavailable`."""

    def abandon(self) -> bool:
        """A handler was left behind in a thread of its own, at its deadline: whether the transaction can go on without
        it. Where it cannot, whatever is still asked for is refused, and a rollback follows."""

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler where its use of the session works."""

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A `def` handler, made to work in a thread of its own, so that it can be left behind."""

    def translate_error(self, error: Exception) -> Exception:
        """An exception out of a handler: what it means in terms of this port, where it is the backend's; or itself."""

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end from inside a `def` handler."""


class DocumentValidator(Protocol):
    """What a collection takes. The methods that check raise `ActionError`: `invalid_input` for a document that does
    not fit, `conflict` for a new one where the collection takes none."""

    def check_new(self, data: Mapping[str, Any]) -> None:
        """Check all of a new document."""

    def fits(self, data: Mapping[str, Any]) -> bool:
        """Return whether all of a document is what the collection takes."""

    def check_change(self, data: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Check the fields of a document that differ from those of the stored one that it replaces."""


class DocumentGuard(Protocol):
    """What is asked before a handler's documents are written."""

    async def check(self, unit_of_work: UnitOfWork, tenant: Tenant, collection: str) -> DocumentValidator | None:
        """What checks the documents of a collection, if anything does. Raises `ActionError` for one that takes
        none."""


class RecordGuard(Protocol):
    """What is asked before a handler changes or deletes a document."""

    async def check(self, unit_of_work: UnitOfWork, collection: str, id: str, holder: str | None) -> None:
        """Raises `ActionError(conflict)` where somebody else than `holder` has locked the document."""


class Outbox(Protocol):
    """The events of one queue that are still to be delivered, of all tenants, as one relay (or one operator) sees them.

    Queues share nothing: what is taken, waits or is dead in one of them says nothing of the same event in another one.

    What a relay has taken no other one gets, until it is settled or given back; that of a relay which is dead, or has
    not been heard of for as long as its lease, is free again. Whoever takes them, the events of one tenant and subject
    come in their order: while one of them waits for another attempt, or is a dead letter that nobody has skipped, those
    after it are not given out. Events without a subject have no order.
    """

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take up to `limit` events that are due, for `lease` seconds; none where there are none. The event whose
        payload reaches 4 MiB is the last one."""

    async def extend(self) -> None:
        """Begin the lease anew. Raises `StorageUnavailable` where it is over."""

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Forget what was delivered, note what failed, and give back the rest of what was taken.

        Raises `StorageUnavailable`, and may do so where the lease is over: then it may be delivered again.
        """

    async def release(self) -> None:
        """Give back what was taken, as if it had not been. Never raises."""

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take, or until the time is up."""

    def wake(self) -> None:
        """End the waiting now. May be called from any thread."""

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Let others know of this relay."""

    async def status(self) -> OutboxStatus:
        """How much there is to deliver, and who does it."""

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters and skipped events, by event id, those after the id `after`; at most 1 000."""

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Try dead letters again from the first attempt on, those with these event ids, or all but the skipped ones;
        how many there were."""

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters with these event ids: their subjects go on without them; how many there were."""

    async def close(self) -> None:
        """Give back what this object holds."""


class Storage(Protocol):
    """A backend."""

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> UnitOfWork:
        """A unit of work of one tenant. Does no work until it is used."""

    def access_version(self, tenant_id: UUID) -> int:
        """A number that changes when this process commits to the tenant's roles. Cheap: asked for each execution."""

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """The tenant of this slug."""

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """The tenant of this id, in one look-up."""

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Make a tenant. Raises `ActionError`: `conflict` for a taken slug, `invalid_input` for one that is not
        lower-case letters, digits and hyphens."""

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """The same."""

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; whether there was one. From now on it is not found, its slug stays taken, and its executions
        are refused as `not_found`. Its rows stay: what is to become of them is the operator's decision."""

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """The same."""

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """All tenants, by slug; or a page of them: up to `limit` (1 000 at most) after the slug `after`."""

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """The same."""

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The tenant's events after a position, of these types or of all, in commit order. A page, of 1 000 at most,
        also ends once its payloads have 4 MiB: only after the last page comes an empty one."""

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The same."""

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return how many of the tenant's events there are after a position, of these types or of all; `limit` stands
        for that many or more. No payload is read."""

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """The same."""

    def outbox(self, mode: Mode, queue: str = EVENTS) -> Outbox:
        """A queue of the outbox, for one relay or operator. Does no work until it is used."""

    async def backlog(self, mode: Mode) -> Backlog:
        """Return what waits for people, and for its time, over all tenants: for operators and relays."""

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Forget up to `limit` expired idempotency keys; how many there were."""

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """The same."""
