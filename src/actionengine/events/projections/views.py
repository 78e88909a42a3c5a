"""The documents of one generation of a projection, for `apply` and for readers, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.pages import Page
from actionengine.storage.records import RESERVED_PREFIX, AsyncRecords, Records
from actionengine.storage.rows import Record

Phase = Literal["live", "filling", "removing", "idle"]

CHECKPOINTS = f"{RESERVED_PREFIX}projections"
"""The collection of checkpoints: `<name>` is that of the live generation, `<name>/rebuild` that of a rebuild."""

_MAX_COLLECTION_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of a generation: the `position` of its newest event, and its `collections`.

    The `phase` of a rebuild's checkpoint says whether its generation is being filled or removed; a generation that is
    removed was live before, or was abandoned. `last` is the highest number of any generation so far. `version` is that
    of the document, 0 if there is none yet.
    """

    id: str
    phase: Phase
    generation: int = 1
    position: int = 0
    collections: tuple[str, ...] = ()
    last: int = 1
    version: int = 0

    @classmethod
    def of(cls, id: str, record: Record | None, phase: Phase) -> Checkpoint:
        """Return a stored checkpoint, or a new one in this phase."""
        if record is None:
            return cls(id, phase)
        data = record.data
        collections = tuple(data["collections"])
        return cls(id, data["phase"], data["generation"], data["position"], collections, data["last"], record.version)

    async def store(self, checkpoints: AsyncRecords) -> Checkpoint:
        """Write it, which locks it until the transaction ends. Raise `ActionError(conflict)` if it has changed since it
        was read."""
        document = {
            "phase": self.phase,
            "generation": self.generation,
            "position": self.position,
            "collections": list(self.collections),
            "last": self.last,
        }
        if self.version == 0:
            record = await checkpoints.insert(document, self.id)
        else:
            record = await checkpoints.update(self.id, document, self.version)
        return replace(self, version=record.version)


class View:
    """One generation of a projection, to which `apply` writes in the transaction of a batch of events.

    A host that projects into SQL tables of its own uses `session` (`async_session` in an `async def`), and puts
    `generation` into the key of each row.
    """

    __slots__ = ("_ctx", "_projection", "collections", "generation")

    def __init__(self, ctx: InternalContext, projection: str, checkpoint: Checkpoint) -> None:
        self._ctx = ctx
        self._projection = projection
        self.generation = checkpoint.generation
        self.collections = set(checkpoint.collections)

    @property
    def tenant(self) -> Tenant:
        """The tenant of the events."""
        return self._ctx.tenant

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the transaction, for a `def`. Raises `StorageError` if the storage has none."""
        return self._ctx.session

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the transaction, for an `async def`. Raises as `session` does."""
        return self._ctx.async_session

    def records(self, collection: str = "") -> Records:
        """Return documents of this generation, for a `def`. Their methods are those of `ctx.records`."""
        self._ctx._require("def", "view.records", "view.async_records")
        return Records(self.open(collection), self._ctx.run_sync)

    def async_records(self, collection: str = "") -> AsyncRecords:
        """Return the same for an `async def`."""
        self._ctx._require("async def", "view.async_records", "view.records")
        return self.open(collection)

    def open(self, collection: str) -> AsyncRecords:
        """Return a collection, and add it to those of the generation."""
        name = collection_name(self._projection, self.generation, collection)
        self.collections.add(collection)
        return self._ctx.unit_of_work.records(name)


def collection_name(projection: str, generation: int, collection: str) -> str:
    """Return a collection's name in the storage. Raise `ActionError(internal)` for a name that cannot be used."""
    if (
        not isinstance(collection, str)
        or len(collection) > _MAX_COLLECTION_LENGTH
        or storable_text(collection) != collection
    ):
        raise ActionError(
            ErrorCode.INTERNAL,
            f"a collection of the projection {projection} needs a name of at most {_MAX_COLLECTION_LENGTH} characters, "
            f"not {collection!r}",
        )
    return f"{RESERVED_PREFIX}view/{projection}/{generation}/{collection}"


class AsyncLiveRecords:
    """Documents of the live generation, read in the transaction of an action. `generation` is its number.

    A rebuild may switch to the next generation meanwhile and remove this one. So a document that was not found, and
    each page, is read again if the generation has changed since.
    """

    __slots__ = ("_collection", "_ctx", "_projection", "generation")

    def __init__(self, ctx: InternalContext, projection: str, collection: str) -> None:
        self._ctx = ctx
        self._projection = projection
        self._collection = collection
        self.generation = 0

    async def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        while True:
            record = await self._records().get(id)
            if record is not None or not await self.is_superseded():
                return record

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return documents by id, after the id `after`, whose top-level fields equal the filter's; 1000 at most."""
        while True:
            page = await self._records().list(filter, limit, after, descending)
            if not await self.is_superseded():
                return page

    async def is_superseded(self) -> bool:
        """Return whether the live generation has changed; if so, read the new one from now on."""
        record = await self._ctx.unit_of_work.records(CHECKPOINTS).get(self._projection)
        before, self.generation = self.generation, Checkpoint.of(self._projection, record, "live").generation
        return before != self.generation

    def _records(self) -> AsyncRecords:
        return self._ctx.unit_of_work.records(collection_name(self._projection, self.generation, self._collection))


class LiveRecords:
    """`AsyncLiveRecords` for `def` handlers."""

    __slots__ = ("_records", "_run_sync")

    def __init__(self, records: AsyncLiveRecords, run_sync: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._records = records
        self._run_sync = run_sync

    @property
    def generation(self) -> int:
        """The number of the live generation."""
        return self._records.generation

    def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        record: Record | None = self._run_sync(self._records.get(id))
        return record

    def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return documents by id, after the id `after`, whose top-level fields equal the filter's; 1000 at most."""
        page: Page[Record] = self._run_sync(self._records.list(filter, limit, after, descending))
        return page
