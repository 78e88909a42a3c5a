"""Storages that break one promise each, for the suite to refuse: possible mistakes of a host's own storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid5

from actionengine import InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.counters import Reservation
from actionengine.storage.memory.claims import ClaimHolder
from actionengine.storage.memory.counters import Hold
from actionengine.storage.memory.outbox import MemoryOutbox, PartitionKey
from actionengine.storage.memory.records import MemoryRecords
from actionengine.storage.memory.rows import MemoryRows
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.memory.versions import Document, Item, Key
from actionengine.storage.outbox import EVENTS, DeadLetter, FailedDelivery, PendingEvent
from actionengine.storage.pages import Page
from actionengine.storage.rows import (
    CLAIMED,
    Claim,
    ClaimAnswer,
    EmittedEvent,
    EventLink,
    IdempotentResult,
    LogLink,
    LogQuery,
    LogRow,
    Record,
    Recording,
    StoredEvent,
)
from actionengine.storage.scopes import Scope
from actionengine.storage.tables import Row, Table
from actionengine.testing import (
    ActionLogConformance,
    BudgetConformance,
    CauseConformance,
    DeadLetterConformance,
    EventConformance,
    IdempotencyConformance,
    LogSearchConformance,
    OutboxConformance,
    RecordsConformance,
    TablesConformance,
    TenantConformance,
    TransactionConformance,
)

ALL: dict[str, type[Broken]] = {}


class Broken(InMemoryStorage):
    """An in-memory storage with replaceable parts. `refused_by` is the test of the suite about its broken promise."""

    refused_by: ClassVar[Callable[..., None]]
    Unit: ClassVar[type[BrokenUnit]]
    Outbox: ClassVar[type[MemoryOutbox]] = MemoryOutbox

    def __init_subclass__(cls, by: Callable[..., None]) -> None:
        cls.refused_by = staticmethod(by)
        ALL[cls.__name__] = cls

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        return self.Unit(self._tenant_data(tenant.id), mode, read_only)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> MemoryOutbox:
        return self.Outbox(self._queues if queue == EVENTS else self._further_queues[queue], mode, queue)


class BrokenUnit(MemoryUnitOfWork):
    Records: ClassVar[type[MemoryRecords]] = MemoryRecords
    Rows: ClassVar[type[MemoryRows]] = MemoryRows

    def records(self, collection: str) -> MemoryRecords:
        return self.Records(self, collection)

    def rows(self, table: Table) -> MemoryRows:
        return self.Rows(self, table)


Broken.Unit = BrokenUnit


# Documents


class UpdatesAreLost(Broken, by=TransactionConformance.test_of_many_writers_of_a_document_one_wins):
    """No document is locked: of two units that have read the same version, the second overwrites the first."""

    class Unit(BrokenUnit):
        def _lock_all(self, keys: Collection[Key]) -> MemoryUnitOfWork | None:
            return None


class LocksSeeOldVersions(
    Broken, by=TransactionConformance.test_a_version_that_was_read_before_another_commit_is_stale
):
    """A version is compared with the one that this transaction has read, not with the newest."""

    class Unit(BrokenUnit):
        def lock(self, key: Key) -> Item | None:
            self.check_writable(key[0])
            with self._data.lock:
                self._lock_all([key])
                return self.read(key)


class VersionsAreIgnored(Broken, by=RecordsConformance.test_a_stale_version_is_a_conflict):
    """An update takes any expected version."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            def _lock_version(self, key: Key, expected_version: int) -> Any:
                current = self._transaction.lock(key)
                return super()._lock_version(key, current.version if current else expected_version)


class DeletesIgnoreVersions(Broken, by=RecordsConformance.test_a_stale_version_is_a_conflict):
    """A delete takes any expected version."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def delete(self, id: str, expected_version: int) -> None:
                found = await self.get(id)
                await super().delete(id, found.version if found else expected_version)


class VersionsDoNotGrow(Broken, by=RecordsConformance.test_an_update_replaces_the_document_and_raises_its_version):
    """An update leaves the version as it was."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            def _write(self, key: Key, document: Any) -> Record:
                return super()._write(key, document._replace(version=1))


class InsertsOverwrite(Broken, by=RecordsConformance.test_a_taken_id_is_a_conflict):
    """A taken id is overwritten silently."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
                found = await self.get(id) if id else None
                if found is not None:
                    await self.delete(found.id, found.version)
                return await super().insert(data, id, is_new)


class InsertsAreDropped(Broken, by=RecordsConformance.test_a_taken_id_is_a_conflict):
    """A taken id is answered with success, and the document is dropped."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
                found = await self.get(id) if id else None
                return found or await super().insert(data, id, is_new)


class ReadsAreDirty(Broken, by=TransactionConformance.test_uncommitted_writes_are_invisible_to_others):
    """A read sees uncommitted writes of others."""

    class Unit(BrokenUnit):
        def read(self, key: Key) -> Item | None:
            holder = self._data.locks.get(key)
            return holder._writes[key] if holder is not None and key in holder._writes else super().read(key)


class ListingsAreDirty(Broken, by=TransactionConformance.test_uncommitted_writes_are_invisible_to_others):
    """A listing includes uncommitted writes of others."""

    class Unit(BrokenUnit):
        def listed(
            self, collection: str, key: str | None, size: int, after: str | None, descending: bool
        ) -> list[tuple[str, Document]]:
            found = dict(super().listed(collection, key, size, after, descending))
            for (written_in, id), holder in list(self._data.locks.items()):
                written = holder._writes.get((written_in, id))
                if written_in == collection and written is not None:
                    found[id] = written
            return sorted(found.items(), reverse=descending)


class ListingsMissOwnWrites(Broken, by=RecordsConformance.test_a_listing_has_the_units_own_writes_in_it):
    """A listing has only what is committed."""

    class Unit(BrokenUnit):
        def listed(
            self, collection: str, key: str | None, size: int, after: str | None, descending: bool
        ) -> list[tuple[str, Document]]:
            own, self._writes = self._writes, {}
            try:
                return super().listed(collection, key, size, after, descending)
            finally:
                self._writes = own


class PagesRepeatTheirStart(Broken, by=RecordsConformance.test_paging_gives_each_document_once):
    """A page begins with the id after which it should begin."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def list(
                self, filter: Any = None, limit: int = 100, after: str | None = None, descending: bool = False
            ) -> Page[Record]:
                found = await super().list(filter, limit, after, descending)
                start = await self.get(after) if after else None
                return Page([start, *found], found.next) if start else found


class PagesHaveNoBytes(Broken, by=RecordsConformance.test_a_page_ends_with_the_document_that_reaches_its_bytes):
    """A page is as long as its rows."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def list(self, *arguments: Any, **options: Any) -> Page[Record]:
                found = await super().list(*arguments, **options)
                while found.next is not None:
                    more = await super().list(*arguments, **{**options, "after": found.next})
                    found = Page([*found, *more], more.next)
                return found


class FiltersFindParts(Broken, by=RecordsConformance.test_a_filter_compares_whole_fields_as_json_does):
    """A filter on an object matches an object with more fields."""

    class Unit(BrokenUnit):
        class Records(MemoryRecords):
            async def list(
                self, filter: Mapping[str, Any] | None = None, *arguments: Any, **options: Any
            ) -> Page[Record]:
                found = await super().list(None, *arguments, **options)
                return Page((record for record in found if _contains(record.data, dict(filter or {}))), found.next)


class ReadOnlyUnitsWrite(Broken, by=TransactionConformance.test_a_read_only_unit_refuses_writes):
    """A read-only unit of work writes."""

    class Unit(BrokenUnit):
        def check_writable(self, collection: str) -> None:
            pass


# Tenants


class TenantsShareIds(Broken, by=TenantConformance.test_tenants_do_not_see_each_others_documents):
    """All documents lie in one place, for all tenants."""

    def _tenant_data(self, tenant_id: UUID) -> Any:
        return super()._tenant_data(UUID(int=0))


class TenantsAreTheirSlugs(Broken, by=TenantConformance.test_a_tenant_is_its_id_whatever_its_slug_is):
    """A tenant is identified by its slug: another tenant with this slug has its documents, a new slug loses them."""

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        return super().unit_of_work(replace(tenant, id=_of_slug(tenant)), action_id, mode, read_only)

    def read_events(self, tenant: Tenant, **options: Any) -> Sequence[StoredEvent]:
        return super().read_events(replace(tenant, id=_of_slug(tenant)), **options)

    def access_version(self, tenant_id: UUID) -> int:
        return sum(data.access_version for data in self._data.values())

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        return self._tenants.get(slug) if self._tenants.get(slug) in self.list_tenants() else None

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        return next((tenant for tenant in self.list_tenants() if tenant.id == id), None)

    def delete_tenant(self, *, slug: str) -> bool:
        tenant = self._tenants.get(slug)
        if tenant is None or self._tenant_data(_of_slug(tenant)).is_deleted:
            return False
        self._tenant_data(tenant.id).is_deleted = self._tenant_data(_of_slug(tenant)).is_deleted = True
        return True


class DeletedTenantsWork(Broken, by=TenantConformance.test_nothing_is_executed_for_a_deleted_tenant):
    """A deleted tenant is not found, but its units of work still run."""

    class Unit(BrokenUnit):
        def _check_open(self) -> None:
            if self._ended:
                super()._check_open()


class LogsAreShared(Broken, by=TenantConformance.test_tenants_do_not_see_each_others_keys_log_and_events):
    """A unit of work reads the log of every tenant."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            await super().record(recording)
            _log.extend(recording.log)

        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            own = await super().read_log(query)
            others = [row for row in _log if row.tenant_id not in {mine.tenant_id for mine in self._data.log}]
            return Page([*own, *others][: query.limit])


_log: list[LogRow] = []


# Transactions


class SavepointsKeepEverything(
    Broken, by=TransactionConformance.test_rolling_back_to_a_savepoint_undoes_what_came_after_it
):
    """Rolling back to a savepoint undoes nothing."""

    class Unit(BrokenUnit):
        async def rollback_to(self, savepoint: object) -> None:
            pass


class SavepointsUndoEverything(
    Broken, by=TransactionConformance.test_rolling_back_to_a_savepoint_undoes_what_came_after_it
):
    """Rolling back to a savepoint also undoes the writes before it."""

    class Unit(BrokenUnit):
        async def rollback_to(self, savepoint: object) -> None:
            assert isinstance(savepoint, Scope)
            savepoint.mark = 0
            await super().rollback_to(savepoint)


class SavepointsUndoInsertsOnly(
    Broken, by=TransactionConformance.test_rolling_back_to_a_savepoint_undoes_what_came_after_it
):
    """Rolling back to a savepoint leaves updates and deletes."""

    class Unit(BrokenUnit):
        async def rollback_to(self, savepoint: object) -> None:
            assert isinstance(savepoint, Scope)
            for key, _, before in reversed(self._journal[savepoint.mark :]):
                document = self._writes.get(key)
                if before is None and document is not None and getattr(document, "version", 1) == 1:
                    self._writes.pop(key)
            del self._journal[savepoint.mark :]


class ReleasesUndo(Broken, by=TransactionConformance.test_a_released_savepoint_keeps_what_was_written_since):
    """Releasing a savepoint undoes the writes since."""

    class Unit(BrokenUnit):
        async def release(self, savepoint: object) -> None:
            await self.rollback_to(savepoint)


class RollbacksCommit(Broken, by=TransactionConformance.test_a_rollback_leaves_no_trace):
    """A rollback keeps the writes."""

    class Unit(BrokenUnit):
        async def rollback(self) -> None:
            if not self._ended:
                with self._data.lock:
                    self._publish()
            await super().rollback()


class RollbacksKeepLocks(Broken, by=TransactionConformance.test_what_was_rolled_back_stands_in_nobodys_way):
    """A rolled-back unit of work keeps its locks."""

    class Unit(BrokenUnit):
        async def rollback(self) -> None:
            locks = dict(self._data.locks)
            await super().rollback()
            self._data.locks.update(locks)


class RecordsAreNotAtomic(Broken, by=ActionLogConformance.test_rows_appear_with_the_commit_and_not_after_a_rollback):
    """Log rows and events are written when they are recorded, also those of a transaction that rolls back."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            await super().record(recording._replace(log=(), events=()))
            self._data.log.extend(recording.log)
            self._data.events.extend(recording.events)


class LastRecordingWins(Broken, by=ActionLogConformance.test_what_a_unit_records_in_turns_is_all_kept):
    """Only the last recording of a unit of work is kept."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            self._recordings.clear()
            await super().record(recording)


class CommitsInHalves(Broken, by=TransactionConformance.test_a_listing_never_shows_half_of_a_commit):
    """A commit becomes visible document by document."""

    class Unit(BrokenUnit):
        async def commit(self) -> None:
            self._check_open()
            writes = self._writes
            for number, (key, document) in enumerate(writes.items()):
                with self._data.lock:
                    self._writes = {key: document}
                    self._publish()
                if number + 1 < len(writes) and self._mode == "async":
                    await asyncio.sleep(0)
            self._writes = {}
            await super().commit()


class UnitsGoOnAfterTheirEnd(Broken, by=TransactionConformance.test_a_unit_that_is_over_refuses):
    """A unit of work works after its end."""

    class Unit(BrokenUnit):
        def _check_open(self) -> None:
            pass


class TimeStandsStill(Broken, by=TransactionConformance.test_units_of_work_tell_one_time_and_it_goes_on):
    """The time of a unit of work stands still after its first use."""

    class Unit(BrokenUnit):
        asked_at: datetime | None = None

        async def now(self) -> datetime:
            self.asked_at = self.asked_at or await super().now()
            return self.asked_at


class EachUnitHasItsTime(Broken, by=TransactionConformance.test_units_of_work_tell_one_time_and_it_goes_on):
    """Read-only units of work have another time than the others."""

    class Unit(BrokenUnit):
        async def now(self) -> datetime:
            return await super().now() + timedelta(minutes=1 if self._read_only else 0)


# Idempotency


class ClaimsAreShared(Broken, by=IdempotencyConformance.test_a_held_key_is_in_progress_when_the_wait_is_over):
    """Two units that claim a key at once both get it."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            entry = self._data.claims.get((claim.action, claim.key))
            return CLAIMED if isinstance(entry, ClaimHolder) else await super().claim(claim, wait)


class ClaimsDoNotWait(Broken, by=IdempotencyConformance.test_a_waiter_replays_what_the_first_one_committed):
    """A claim of a held key does not wait."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            return await super().claim(claim, 0.0)


class ClaimsStay(Broken, by=IdempotencyConformance.test_a_rolled_back_claim_frees_the_key):
    """A key whose unit of work was rolled back stays claimed."""

    class Unit(BrokenUnit):
        async def rollback(self) -> None:
            self._claims.clear()
            await super().rollback()


class ReplaysAreUncommitted(Broken, by=IdempotencyConformance.test_a_result_is_replayed_only_once_it_is_committed):
    """A key answers with an uncommitted result."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            entry = self._data.claims.get((claim.action, claim.key))
            if isinstance(entry, ClaimHolder) and isinstance(entry.owner, MemoryUnitOfWork):
                for recording in entry.owner._recordings:
                    for result in recording.results:
                        if result.claim.key == claim.key:
                            return ClaimAnswer("replay", result.result, result.approval_id)
            return await super().claim(claim, wait)


class FingerprintsAreIgnored(Broken, by=IdempotencyConformance.test_a_used_key_with_another_fingerprint_is_a_mismatch):
    """A key answers for every payload."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            entry = self._data.claims.get((claim.action, claim.key))
            if isinstance(entry, IdempotentResult):
                claim = claim._replace(fingerprint=entry.claim.fingerprint)
            return await super().claim(claim, wait)


class KeysAreSharedByActions(Broken, by=IdempotencyConformance.test_a_key_counts_for_one_tenant_and_one_action):
    """A key counts for every action."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            return await super().claim(claim._replace(action=""), wait)

        async def record(self, recording: Recording) -> None:
            results = [kept._replace(claim=kept.claim._replace(action="")) for kept in recording.results]
            await super().record(recording._replace(results=results))


class KeysNeverExpire(Broken, by=IdempotencyConformance.test_an_expired_key_can_be_claimed_again):
    """An expired key answers as before."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            later = datetime.now(UTC) + timedelta(days=1)
            results = [kept._replace(expires_at=max(kept.expires_at, later)) for kept in recording.results]
            await super().record(recording._replace(results=results))


class KeysAlwaysExpire(Broken, by=IdempotencyConformance.test_a_used_key_replays_its_result_byte_for_byte):
    """A used key is free again at once."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            await super().record(recording._replace(results=()))


class PurgesTakeEveryKey(Broken, by=IdempotencyConformance.test_expired_keys_are_purged_in_batches_and_others_stay):
    """A purge forgets keys that have not expired."""

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        purged = super().purge_expired_keys(limit=limit)
        for data in self._data.values():
            data.claims.clear()
        return purged


class ApprovalsTakeAnyKey(Broken, by=IdempotencyConformance.test_an_approval_takes_over_the_key_that_waits_for_it):
    """An approval takes over a key that waits for another approval."""

    class Unit(BrokenUnit):
        async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
            entry = self._data.claims.get((claim.action, claim.key))
            if claim.replaces is not None and isinstance(entry, IdempotentResult) and entry.approval_id:
                claim = claim._replace(replaces=entry.approval_id)
            return await super().claim(claim, wait)


class LostTakeoversForgetTheApproval(
    Broken, by=IdempotencyConformance.test_an_approval_takes_over_the_key_that_waits_for_it
):
    """An approval that is rolled back leaves the key free."""

    class Unit(BrokenUnit):
        async def rollback(self) -> None:
            for key in self._claims:
                held = self._data.claims.get(key)
                if isinstance(held, ClaimHolder):
                    held.before = None
            await super().rollback()


# The log and the events


class EventsAreReversed(Broken, by=EventConformance.test_events_are_read_in_commit_order):
    """The events of one commit are read in reverse."""

    class Unit(BrokenUnit):
        async def record(self, recording: Recording) -> None:
            await super().record(recording._replace(events=tuple(reversed(recording.events))))


class EventsAreSortedById(Broken, by=EventConformance.test_events_are_read_in_commit_order):
    """Events are read in the order of their ids, not of their commits."""

    def read_events(self, tenant: Tenant, *, after: int = 0, limit: int = 1000, **options: Any) -> list[StoredEvent]:
        found = sorted(super().read_events(tenant, **options), key=lambda stored: stored.event.id)
        return [StoredEvent(number, stored.event) for number, stored in enumerate(found, 1)][after : after + limit]


class LogsAreOldestFirst(Broken, by=ActionLogConformance.test_rows_are_read_newest_first_in_pages):
    """The log is read oldest first."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            return Page(reversed(await super().read_log(query)))


class LogPagesRepeatTheirStart(Broken, by=ActionLogConformance.test_rows_are_read_newest_first_in_pages):
    """A page of the log begins with the row before which it should begin."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            found = await super().read_log(query)
            start = [row for row in self._data.log if row.id == query.before]
            return Page([*start, *found][: query.limit])


class SubjectsMatchByPrefix(Broken, by=ActionLogConformance.test_rows_are_found_by_what_is_asked_for):
    """A query for `notes/1` also finds `notes/11`."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            found = await super().read_log(query._replace(subject=None))
            wanted = query.subject
            return Page(row for row in found if wanted is None or any(name.startswith(wanted) for name in row.subjects))


class PrincipalsMatchTheirActors(Broken, by=ActionLogConformance.test_rows_are_found_by_what_is_asked_for):
    """A query for what was done for `human:x` also finds what `human:x` did itself."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            wanted = query.principal
            found = await super().read_log(query._replace(principal=None))
            return Page(
                row
                for row in found
                if wanted is None or wanted in (f"{row.actor_type}:{row.actor_id}", *row.on_behalf_of)
            )


class WordsMatchInPart(Broken, by=LogSearchConformance.test_rows_are_found_by_their_links_and_words):
    """A search for `refun` also finds `refund`."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            found = await super().read_log(query._replace(words=()))
            return Page(row for row in found if all(word in (row.reason or "").lower() for word in query.words))


class AnyWordIsEnough(Broken, by=LogSearchConformance.test_rows_are_found_by_their_links_and_words):
    """A search for several words also finds rows with one of them."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            return await super().read_log(query._replace(words=query.words[:1]))


class RequestsAreNotCompared(Broken, by=LogSearchConformance.test_rows_are_found_by_their_links_and_words):
    """A search by request finds all rows."""

    class Unit(BrokenUnit):
        async def read_log(self, query: LogQuery) -> Page[LogRow]:
            return await super().read_log(query._replace(request_id=None))


class LinkedRowsAreNewestFirst(Broken, by=CauseConformance.test_rows_are_found_by_any_of_several_values):
    """Linked rows come newest first."""

    class Unit(BrokenUnit):
        async def find_log(self, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
            return Page(reversed(await super().find_log(link, values, limit)))


class LinksHaveNoLimit(Broken, by=CauseConformance.test_links_are_followed_up_to_a_limit):
    """All linked rows are read, however many there are."""

    class Unit(BrokenUnit):
        async def find_log(self, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
            return await super().find_log(link, values, 1000)


class OneExecutionsEventsAreFound(Broken, by=CauseConformance.test_events_are_found_by_id_and_by_their_execution):
    """Of several executions, only the events of the first one are found."""

    class Unit(BrokenUnit):
        async def find_events(self, link: EventLink, values: Sequence[str], limit: int) -> Page[EmittedEvent]:
            return await super().find_events(link, values[:1], limit)


# Tables


class RowsAreNotLocked(Broken, by=TablesConformance.test_a_lock_waits_and_sees_what_was_committed_meanwhile):
    """Rows are returned without the requested lock."""

    class Unit(BrokenUnit):
        class Rows(MemoryRows):
            async def find(self, *arguments: Any, lock: bool = False, **options: Any) -> list[Row]:
                if lock:
                    self._transaction.check_writable(self._table.name)
                return await super().find(*arguments, **options)


class UniqueColumnsAreNot(Broken, by=TablesConformance.test_what_is_taken_is_a_conflict):
    """Two rows have the same value in a unique column."""

    class Unit(BrokenUnit):
        class Rows(MemoryRows):
            def _take(self, columns: tuple[str, ...], row: Mapping[str, Any]) -> None:
                pass


class BoundsAreIncluded(Broken, by=TablesConformance.test_order_bounds_limit_and_columns):
    """`above` includes its bound."""

    class Unit(BrokenUnit):
        class Rows(MemoryRows):
            async def find(self, where: Mapping[str, Any] | None = None, **options: Any) -> list[Row]:
                above = options.get("above")
                if above:
                    options["above"] = {name: _just_below(bound) for name, bound in above.items()}
                return await super().find(where, **options)


# The outbox


class RelaysShareEvents(Broken, by=OutboxConformance.test_what_one_relay_has_taken_no_other_one_gets):
    """An event that one relay has taken is given to another one."""

    class Outbox(MemoryOutbox):
        async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
            for _, lanes in self._queues.taken.values():
                for lane in lanes:
                    self._queues.free(lane)
            return await super().take(limit, lease)


class LeasesNeverEnd(Broken, by=OutboxConformance.test_a_relay_that_is_silent_loses_what_it_has_taken):
    """The events of a silent relay are never free again."""

    class Outbox(MemoryOutbox):
        async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
            return await super().take(limit, 10_000.0)


class ExtendedLeasesEnd(Broken, by=OutboxConformance.test_a_lease_that_is_extended_goes_on):
    """An extended lease ends at its first time."""

    class Outbox(MemoryOutbox):
        async def extend(self) -> None:
            pass


class FailuresHoldNothingBack(Broken, by=OutboxConformance.test_a_dead_letter_holds_its_subject_until_it_is_skipped):
    """Events after a failed one of the same subject are delivered before it."""

    class Outbox(MemoryOutbox):
        async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
            lanes: dict[PartitionKey, Any] = self._queues.lanes
            for failure in failed:
                for name, entries in list(lanes.items()):
                    if entries and entries[0].event.id == failure.pending.event.id and len(entries) > 1:
                        later = type(entries)(list(entries)[1:])
                        entries.clear()
                        lanes[(name[0], f"{name[1]} later")] = later
                        self._queues.ready.append((name[0], f"{name[1]} later"))
            await super().settle(delivered, failed)


class FailuresAreForgotten(Broken, by=OutboxConformance.test_an_attempt_that_does_not_count_is_not_counted):
    """A failed event counts as delivered."""

    class Outbox(MemoryOutbox):
        async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
            await super().settle([*delivered, *(failure.pending for failure in failed)], ())


class RetriesAreImmediate(Broken, by=OutboxConformance.test_a_failed_event_waits_and_holds_back_only_its_subject):
    """A failed event is due again at once."""

    class Outbox(MemoryOutbox):
        async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
            at_once = [failure._replace(retry_in=failure.retry_in and 0.0) for failure in failed]
            await super().settle(delivered, at_once)


class EveryAttemptCounts(Broken, by=OutboxConformance.test_an_attempt_that_does_not_count_is_not_counted):
    """An attempt with `counts=False` is counted."""

    class Outbox(MemoryOutbox):
        async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
            await super().settle(delivered, [failure._replace(counts=True) for failure in failed])


class RedriveTakesSkipped(Broken, by=OutboxConformance.test_all_dead_letters_are_redriven_but_the_skipped_ones):
    """Redriving all dead letters includes the skipped ones."""

    class Outbox(MemoryOutbox):
        async def redrive(self, ids: Sequence[str] | None = None) -> int:
            return await super().redrive(list(self._queues.dead) if ids is None else ids)


class LettersRepeatTheirStart(Broken, by=OutboxConformance.test_dead_letters_are_listed_in_pages):
    """A page of dead letters begins with the one after which it should begin."""

    class Outbox(MemoryOutbox):
        async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
            before = [id for id in sorted(self._queues.dead) if after is None or id < after]
            return await super().dead_letters(after=before[-1] if before and after else None, limit=limit)


class SettlingForgetsTheRest(Broken, by=OutboxConformance.test_what_is_in_neither_list_is_given_back):
    """Events that are neither delivered nor failed are lost."""

    class Outbox(MemoryOutbox):
        async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
            refused = {failure.pending.event.id for failure in failed}
            taken = [entry for name in self._taken() for entry in self._queues.lanes[name]]
            rest = [PendingEvent(entry.position, entry.event, 0) for entry in taken if entry.event.id not in refused]
            await super().settle([*delivered, *rest], failed)


# Dead letters of a tenant


class DecisionsAreImmediate(Broken, by=DeadLetterConformance.test_a_rollback_leaves_dead_letters_as_they_are):
    """A dead letter is redriven before the commit."""

    class Unit(BrokenUnit):
        async def redrive(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
            found = await super().redrive(queue, ids)
            with self._data.queues.lock:
                self._data.queues.redrive(found)
            return found


class LettersAreShared(Broken, by=DeadLetterConformance.test_dead_letters_of_another_tenant_are_out_of_reach):
    """A tenant decides about the dead letters of all."""

    class Unit(BrokenUnit):
        def _letters_of(self, queue: str, later_than: str) -> list[DeadLetter]:
            return [entry.letter(queue) for entry in self._data.queues.dead.values()]


class SkipsAreRepeated(Broken, by=DeadLetterConformance.test_a_skipped_event_frees_its_subject_at_the_commit):
    """A skipped event is skipped again, with a second reason."""

    class Unit(BrokenUnit):
        async def skip(self, queue: str, ids: Sequence[str], reason: str) -> Sequence[str]:
            await super().skip(queue, ids, reason)
            return list(ids)


# Budgets


class ReservationsDoNotWait(Broken, by=BudgetConformance.test_a_unit_of_work_waits_for_what_another_may_give_back):
    """A reservation is refused while others hold amounts that they may give back."""

    class Unit(BrokenUnit):
        async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
            self._is_driven = True
            return await super().reserve(reservations)


class SavepointsKeepAmounts(Broken, by=BudgetConformance.test_a_savepoint_gives_amounts_back):
    """A rollback to a savepoint gives nothing back."""

    class Unit(BrokenUnit):
        def _release_hold(self, hold: Hold) -> None:
            if self._ended:
                super()._release_hold(hold)
            else:
                self._holds.append(hold)


class WindowsNeverEnd(Broken, by=BudgetConformance.test_a_new_window_begins_after_the_end_of_one):
    """A counter lasts for ever."""

    class Unit(BrokenUnit):
        async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
            return await super().reserve([each._replace(window=timedelta(days=1)) for each in reservations])


def _of_slug(tenant: Tenant) -> UUID:
    return uuid5(UUID(int=0), tenant.slug)


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(key in value and _contains(value[key], item) for key, item in wanted.items())
    return type(value) is type(wanted) and bool(value == wanted)


def _just_below(bound: Any) -> Any:
    return bound - 1 if isinstance(bound, int) else bound
