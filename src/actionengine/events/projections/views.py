"""What a projection writes to and what is read of it: documents of one generation, and how far that one is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.pages import Page
from actionengine.storage.port import RESERVED_PREFIX, AsyncRecords, Record
from actionengine.storage.records import Records

Phase = Literal["live", "filling", "removing", "idle"]

CHECKPOINTS = f"{RESERVED_PREFIX}projections"
"""The collection of checkpoints: `<name>` is that of the live generation, `<name>/rebuild` that of a rebuild."""

_MAX_COLLECTION_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a generation is: the `position` of the newest event in it, and the `collections` that it has.

    The one of a rebuild says in its `phase` what is done to the generation: it is being filled, or removed (then it is
    the one that was live, or one that was abandoned). `last` is the highest number that a generation has had. `version`
    is the document's, 0 where there is none yet.
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
        """A stored one; where there is none, a new one in this phase."""
        if record is None:
            return cls(id, phase)
        data = record.data
        collections = tuple(data["collections"])
        return cls(id, data["phase"], data["generation"], data["position"], collections, data["last"], record.version)

    async def store(self, checkpoints: AsyncRecords) -> Checkpoint:
        """Write it, which locks it until the transaction ends. Raises `ActionError(conflict)` where it was written
        since it was read."""
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
    """What `apply` writes to: one generation of a projection, in the transaction of a batch of events.

    A host that projects into SQL tables of its own does so through `session` (`async_session` in an `async def`), and
    has `generation` in the key of each row.
    """

    __slots__ = ("_ctx", "_projection", "collections", "generation")

    def __init__(self, ctx: InternalContext, projection: str, checkpoint: Checkpoint) -> None:
        self._ctx = ctx
        self._projection = projection
        self.generation = checkpoint.generation
        self.collections = set(checkpoint.collections)

    @property
    def tenant(self) -> Tenant:
        """For whom."""
        return self._ctx.tenant

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the transaction, for a `def`; `StorageError` where there is none."""
        return self._ctx.session

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the transaction, for an `async def`. Raises as `session` does."""
        return self._ctx.async_session

    def records(self, collection: str = "") -> Records:
        """Documents of this generation, for a `def`. Their methods are those of `ctx.records`."""
        self._ctx._require("def", "view.records", "view.async_records")
        return Records(self.open(collection), self._ctx.run_sync)

    def async_records(self, collection: str = "") -> AsyncRecords:
        """The same for an `async def`."""
        self._ctx._require("async def", "view.async_records", "view.records")
        return self.open(collection)

    def open(self, collection: str) -> AsyncRecords:
        """A collection, which the generation has from now on."""
        name = collection_name(self._projection, self.generation, collection)
        self.collections.add(collection)
        return self._ctx.unit_of_work.records(name)


def collection_name(projection: str, generation: int, collection: str) -> str:
    """Where documents of a generation are. Raises `ActionError(internal)` for a name that cannot be one."""
    if (
        not isinstance(collection, str)
        or len(collection) > _MAX_COLLECTION_LENGTH
        or storable_text(collection) != collection
    ):
        raise ActionError(
            ErrorCode.INTERNAL,
            f"a collection of the projection {projection} has a name of at most {_MAX_COLLECTION_LENGTH} characters, "
            f"not {collection!r}",
        )
    return f"{RESERVED_PREFIX}view/{projection}/{generation}/{collection}"


class AsyncLiveRecords:
    """Documents of the live generation, read in the transaction of an action. `generation` is its number.

    A rebuild may switch to the next generation meanwhile and remove this one. So what was not found, and each page, is
    asked for again where the generation has changed since.
    """

    __slots__ = ("_collection", "_ctx", "_projection", "generation")

    def __init__(self, ctx: InternalContext, projection: str, collection: str) -> None:
        self._ctx = ctx
        self._projection = projection
        self._collection = collection
        self.generation = 0

    async def get(self, id: str) -> Record | None:
        """The document, or None."""
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
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000."""
        while True:
            page = await self._records().list(filter, limit, after, descending)
            if not await self.is_superseded():
                return page

    async def is_superseded(self) -> bool:
        """Return whether the live generation is another one by now; then this follows."""
        record = await self._ctx.unit_of_work.records(CHECKPOINTS).get(self._projection)
        before, self.generation = self.generation, Checkpoint.of(self._projection, record, "live").generation
        return before != self.generation

    def _records(self) -> AsyncRecords:
        return self._ctx.unit_of_work.records(collection_name(self._projection, self.generation, self._collection))


class LiveRecords:
    """The same for `def` handlers."""

    __slots__ = ("_records", "_run_sync")

    def __init__(self, records: AsyncLiveRecords, run_sync: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._records = records
        self._run_sync = run_sync

    @property
    def generation(self) -> int:
        """The number of the live generation."""
        return self._records.generation

    def get(self, id: str) -> Record | None:
        """The document, or None."""
        record: Record | None = self._run_sync(self._records.get(id))
        return record

    def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000."""
        page: Page[Record] = self._run_sync(self._records.list(filter, limit, after, descending))
        return page
