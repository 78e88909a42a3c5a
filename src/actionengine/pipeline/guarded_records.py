"""`ctx.records` with its checks: of the execution, of the documents, and of their locks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.execution import Execution
from actionengine.storage.errors import StorageError
from actionengine.storage.guards import DocumentValidator
from actionengine.storage.pages import Page
from actionengine.storage.records import StoredRecords
from actionengine.storage.rows import Record

T = TypeVar("T")


class GuardedRecords:
    """A collection whose changes become subjects on the action log.

    `ask` returns the check of the collection's documents, where there is one; `check_lock` refuses to change a locked
    document.
    """

    __slots__ = ("_ask", "_check_lock", "_collection", "_execution", "_records")

    def __init__(
        self,
        records: StoredRecords,
        execution: Execution,
        collection: str,
        ask: Callable[[], Awaitable[DocumentValidator | None]] | None,
        check_lock: Callable[[str, str | None], Awaitable[None]] | None,
    ) -> None:
        self._records = records
        self._execution = execution
        self._collection = collection
        self._ask = ask
        self._check_lock = check_lock

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document. Without an `id` it gets one that sorts by time. A taken id raises `conflict`."""
        self._check_writable()
        if (check := await self._document_check()) is not None:
            check.check_new(data)
        self._check_writable()
        record = await self._answered(self._records.insert(data, id))
        self._execution.entry.add_subject(f"{self._collection}/{record.id}")
        return record

    async def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        return await self._records.get(id)

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`. Any other version raises `conflict`."""
        self._check_writable()
        check = await self._document_check()
        if check is not None and not check.fits(data):
            # It may be older than the collection's schema. The lock keeps another document from taking its place.
            check.check_change(data, (await self._records.lock(id, expected_version)).data)
        await self._check_unlocked(id)
        self._check_writable()
        record = await self._answered(self._records.update(id, data, expected_version))
        self._execution.entry.add_subject(f"{self._collection}/{id}")
        return record

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`. Any other version raises `conflict`."""
        self._check_writable()
        await self._check_unlocked(id)
        self._check_writable()
        await self._answered(self._records.delete(id, expected_version))
        self._execution.entry.add_subject(f"{self._collection}/{id}")

    async def _answered(self, write: Coroutine[Any, Any, T]) -> T:
        """Return the result of a write, counting the write while it runs."""
        root = self._execution.root
        root.unanswered += 1
        try:
            return await write
        finally:
            root.unanswered -= 1

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return at most 1 000 documents by id, after the id `after`, whose top-level fields equal the filter's."""
        return await self._records.list(filter, limit, after, descending)

    async def _document_check(self) -> DocumentValidator | None:
        """Return the check of the record type. It is fetched once for each collection."""
        if self._ask is None:
            return None
        root = self._execution.root
        checks = root.document_checks
        if checks is None:
            checks = root.document_checks = {}
        if self._collection not in checks:
            # A nested action in another task may reset the checks meanwhile, so keep these.
            checks[self._collection] = await self._ask()
        return checks[self._collection]

    async def _check_unlocked(self, id: str) -> None:
        """Raise where another holder has locked the document."""
        if self._check_lock is not None:
            await self._check_lock(id, self._execution.effective_lock_holder)

    def _check_writable(self) -> None:
        """Raise for an execution that has ended, that waits for a nested action, or that is read-only."""
        plan = self._execution.plan
        if self._execution.is_over:
            raise StorageError(f"the execution of {plan.name} has ended: use ctx.records only while its handler runs")
        self._execution.check_alone()
        if plan.action.read_only:
            raise ActionError(ErrorCode.INTERNAL, f"{plan.name} is read-only and cannot write to {self._collection!r}")
