"""What a handler gets: one `ActionContext` for one execution."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from returns.result import Result

from actionengine.actions import HookContext
from actionengine.context import MAX_NAME_LENGTH, Actor, AIUsage, Tenant
from actionengine.errors import ActionError, ErrorCode, check_length, failing, sendable
from actionengine.event_types import EventType, misfits
from actionengine.execution_state import Execution
from actionengine.masking import masked_finite_json
from actionengine.names import MAX_PERMISSION_LENGTH, check_permission, nfc
from actionengine.payload import Limits
from actionengine.storage.pages import Page
from actionengine.storage.port import (
    LONGEST_SUBJECT,
    RESERVED_PREFIX,
    AsyncRecords,
    DocumentCheck,
    DocumentGuard,
    Mode,
    Record,
    RecordGuard,
    StorageError,
    StoredRecords,
    UnitOfWork,
)
from actionengine.storage.records import MAX_ID_LENGTH, Records

if TYPE_CHECKING:
    from actionengine.authorization.port import Decision

T = TypeVar("T")


class Executor(Protocol):
    """What a context needs of the pipeline."""

    resources: Mapping[str, Any]
    limits: Limits
    document_guard: DocumentGuard | None
    record_guard: RecordGuard | None

    def open(self, execution: Execution) -> UnitOfWork:
        """The unit of work of the outermost execution."""

    async def execute_nested(
        self, parent: Execution, service: str, action: str, payload: Any, mode: Mode
    ) -> Result[Any, ActionError]:
        """Another action, in a savepoint."""

    def decide(self, execution: Execution, permission: str, resource: str | None) -> Coroutine[Any, Any, Decision]:
        """The authorizer's answer, put on record."""


class ActionContext:
    """Who asks and for whom, and what the handler may use: documents, the session, events, other actions.

    It lives as long as its execution: used afterwards (or after a timeout) it raises `StorageError`. In each pair of
    methods the first is for `def` handlers, the `async` one for `async def` handlers.
    """

    __slots__ = ("_execution", "_executor", "_is_async")

    def __init__(self, execution: Execution, executor: Executor, is_async: bool) -> None:
        self._execution = execution
        self._executor = executor
        self._is_async = is_async

    @property
    def action_id(self) -> str:
        """The id of this execution: that of its row in the action log."""
        return self._execution.id

    @property
    def tenant(self) -> Tenant:
        """For whom."""
        tenant = self._execution.request.tenant
        assert tenant is not None
        return tenant

    @property
    def actor(self) -> Actor | None:
        """Who asks; None only where the action is not protected."""
        return self._execution.request.actor

    @property
    def source(self) -> str:
        """Where the request came in."""
        return self._execution.request.source

    @property
    def reason(self) -> str | None:
        """Why, as the request said."""
        return self._execution.request.reason

    @property
    def request_id(self) -> str | None:
        """The host's id for the request."""
        return self._execution.request.request_id

    @property
    def hook_context(self) -> HookContext:
        """This execution as its hooks see it; in a hook, that of the execution which it hooks."""
        execution = self._execution
        return (execution.hooked or execution).hook_context

    @property
    def resources(self) -> Mapping[str, Any]:
        """The host's own objects: the request's over the engine's."""
        own = self._execution.request.resources
        if not own:
            return self._executor.resources
        return MappingProxyType(ChainMap(dict(own), dict(self._executor.resources)))

    def records(self, collection: str) -> Records:
        """The tenant's documents of a collection, for `def` handlers."""
        self._require("def", "ctx.records", "ctx.async_records")
        unit_of_work = self._unit_of_work()
        return Records(self._collection(collection), unit_of_work.drive)

    def async_records(self, collection: str) -> AsyncRecords:
        """The tenant's documents of a collection, for `async def` handlers."""
        self._require("async def", "ctx.async_records", "ctx.records")
        return self._collection(collection)

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the unit of work, for `def` handlers; `StorageError` where there is none."""
        self._require("def", "ctx.session", "ctx.async_session")
        self._execution.root.has_session = True
        return self._unit_of_work().session

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the unit of work, for `async def` handlers. Raises as `session` does."""
        self._require("async def", "ctx.async_session", "ctx.session")
        self._execution.root.has_session = True
        return self._unit_of_work().async_session

    def emit(self, type: str | EventType, payload: Any = None, subject: str | None = None) -> None:
        """Add an event to the unit of work: it is published if, and only if, the action commits.

        `payload` is anything with a JSON form; where the type was declared with `create_event_type`, it has to fit.
        `subject` names what the event is about (`"job/17"`): events of one subject are delivered in their order. Raises
        `ActionException(internal)` for a read-only action, a type that the action does not declare, a payload that has
        no JSON form, does not fit or is too large, and a subject that is too long.
        """
        execution = self._running()
        action = execution.plan.action
        given = type if isinstance(type, EventType) else None
        name = given.type if given is not None else type
        declared = execution.plan.event_types.get(name, given) if isinstance(name, str) else None
        if given is not None and declared != given:
            raise failing(ErrorCode.INTERNAL, f"{execution.plan.name} declares the event {name!r} in another way")
        if not isinstance(name, str) or not name or not isinstance(subject, str | None):
            raise failing(ErrorCode.INTERNAL, f"an event has a type and perhaps a subject, texts both: not {name!r}")
        name = sendable(name)
        subject = subject and sendable(subject)
        if subject is not None and len(subject) > LONGEST_SUBJECT:
            raise failing(ErrorCode.INTERNAL, f"the subject of an event has at most {LONGEST_SUBJECT} characters")
        if len(name) > MAX_NAME_LENGTH:
            raise failing(ErrorCode.INTERNAL, f"the type of an event has at most {MAX_NAME_LENGTH} characters")
        if action.read_only:
            raise failing(ErrorCode.INTERNAL, f"{execution.plan.name} is read-only and cannot emit {name!r}")
        if action.emits and name not in action.emits:
            raise failing(
                ErrorCode.INTERNAL,
                f"{execution.plan.name} emitted {name!r}, which it does not declare: add it to emits={action.emits!r}",
            )
        try:
            if declared is None:
                encoded = masked_finite_json(payload, execution.learn)
            else:
                encoded = declared.encode(payload, execution.learn)
            if execution.has_secrets:
                encoded = execution.masked(encoded)
        except ValidationError as error:
            message = f"the payload of the event {name!r} does not fit its type: {misfits(error)}"
            raise failing(ErrorCode.INTERNAL, message) from None
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise failing(ErrorCode.INTERNAL, f"the payload of the event {name!r} has no JSON form: {error}") from None
        if len(encoded) > self._executor.limits.event_bytes:
            raise failing(
                ErrorCode.INTERNAL,
                f"the payload of the event {name!r} has {len(encoded)} bytes; at most "
                f"{self._executor.limits.event_bytes} are allowed (Limits.event_bytes)",
            )
        with execution.lock:
            execution.check_alone()
            if subject is not None:
                execution.add_subject(subject)
            execution.add_event(name, subject, encoded, declared.version if declared is not None else 1)

    def execute(self, service: str, action: str, payload: Any = None) -> Result[Any, ActionError]:
        """Execute another action in the same unit of work, as the same actor, from a `def` handler.

        A failure undoes what that action wrote and comes back as a `Failure`; what this one wrote stays.
        """
        self._require("def", "ctx.execute", "ctx.execute_async")
        nested = self._executor.execute_nested(self._running(), service, action, payload, "sync")
        answer: Result[Any, ActionError] = self._drive(nested)
        return answer

    async def execute_async(self, service: str, action: str, payload: Any = None) -> Result[Any, ActionError]:
        """The same, from an `async def` handler."""
        self._require("async def", "ctx.execute_async", "ctx.execute")
        return await self._executor.execute_nested(self._running(), service, action, payload, "async")

    def authorize(self, permission: str, resource: str | None = None) -> None:
        """Make sure, in a `def` handler, that the actor has a permission, perhaps on one resource.

        The decision goes to the action log. Raises `ActionException(forbidden)`.
        """
        self._require("def", "ctx.authorize", "ctx.authorize_async")
        self._enforce(self._drive(self._question(permission, resource)))

    async def authorize_async(self, permission: str, resource: str | None = None) -> None:
        """The same, in an `async def` handler."""
        self._require("async def", "ctx.authorize_async", "ctx.authorize")
        self._enforce(await self._question(permission, resource))

    def record_ai_usage(self, usage: AIUsage) -> None:
        """Put an AI call of this execution on the action log; several add up."""
        if not isinstance(usage, AIUsage):
            raise failing(ErrorCode.INTERNAL, f"record_ai_usage takes an AIUsage, not {type(usage).__name__}")
        self._running().add_usage(usage)

    def _question(self, permission: Any, resource: Any) -> Coroutine[Any, Any, Decision]:
        if isinstance(permission, str):
            check_length("the permission", permission, MAX_PERMISSION_LENGTH)
        try:
            check_permission(permission)
        except ValueError as error:
            raise failing(ErrorCode.INTERNAL, f"{self._execution.plan.name}: {error}") from None
        if resource is not None and not isinstance(resource, str):
            name = self._execution.plan.name
            raise failing(ErrorCode.INTERNAL, f"{name}: a resource is a name such as 'job/17', not {resource!r}")
        if resource is not None:
            check_length("the resource", resource, LONGEST_SUBJECT)
        return self._executor.decide(self._running(), permission, resource)

    def _enforce(self, decision: Decision) -> None:
        if not decision.allowed:
            raise failing(ErrorCode.FORBIDDEN, f"{self._execution.plan.name}: {decision.reason}")

    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._executor.open(self._running()).drive(coroutine)

    def _collection(self, collection: str) -> AsyncRecords:
        if not collection or collection.startswith(RESERVED_PREFIX):
            raise failing(
                ErrorCode.INTERNAL,
                f"{collection!r} is no collection for a handler: names are not empty and do not start with "
                f"{RESERVED_PREFIX!r}",
            )
        collection = nfc(collection)
        check_length("the name of the collection", collection, MAX_ID_LENGTH)
        execution = self._running()
        unit_of_work = self._unit_of_work()
        guard, locks = self._executor.document_guard, self._executor.record_guard
        return _OnRecord(
            unit_of_work.records(collection),
            execution,
            collection,
            partial(guard.check, unit_of_work, self.tenant, collection) if guard is not None else None,
            partial(locks.check, unit_of_work, collection) if locks is not None else None,
        )

    def _unit_of_work(self) -> UnitOfWork:
        execution = self._running()
        execution.check_alone()
        return self._executor.open(execution)

    def _running(self) -> Execution:
        if self._execution.is_over:
            raise StorageError(f"the execution of {self._execution.plan.name} is over; its context cannot be used")
        return self._execution

    def _require(self, kind: str, used: str, instead: str) -> None:
        plan = self._execution.plan
        if plan.is_native or self._is_async == (kind == "async def"):
            return
        other = "an async def" if self._is_async else "a def"
        raise failing(
            ErrorCode.INTERNAL, f"{used} is for {kind} handlers; {plan.name} has {other} handler: use {instead}"
        )


class _OnRecord:
    """A collection whose changes name their documents as subjects on the action log, and are checked, where `ask` names
    what checks them."""

    __slots__ = ("_ask", "_check_lock", "_collection", "_execution", "_records")

    def __init__(
        self,
        records: StoredRecords,
        execution: Execution,
        collection: str,
        ask: Callable[[], Awaitable[DocumentCheck | None]] | None,
        check_lock: Callable[[str, str | None], Awaitable[None]] | None,
    ) -> None:
        self._records = records
        self._execution = execution
        self._collection = collection
        self._ask = ask
        self._check_lock = check_lock

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document; without an `id` it gets one that sorts by time. A taken id is `conflict`."""
        self._check_writable()
        if (check := await self._document_check()) is not None:
            check.check_new(data)
        self._check_writable()
        record = await self._answered(self._records.insert(data, id))
        self._execution.add_subject(f"{self._collection}/{record.id}")
        return record

    async def get(self, id: str) -> Record | None:
        """The document, or None."""
        return await self._records.get(id)

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`; any other version is `conflict`."""
        self._check_writable()
        check = await self._document_check()
        if check is not None and not check.fits(data):
            # It may be older than the collection's schema. The lock keeps another document from taking its place.
            check.check_change(data, (await self._records.lock(id, expected_version)).data)
        await self._check_unlocked(id)
        self._check_writable()
        record = await self._answered(self._records.update(id, data, expected_version))
        self._execution.add_subject(f"{self._collection}/{id}")
        return record

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`; any other version is `conflict`."""
        self._check_writable()
        await self._check_unlocked(id)
        self._check_writable()
        await self._answered(self._records.delete(id, expected_version))
        self._execution.add_subject(f"{self._collection}/{id}")

    async def _answered(self, write: Coroutine[Any, Any, T]) -> T:
        """Return what a write answers, and count it until then."""
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
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000."""
        return await self._records.list(filter, limit, after, descending)

    async def _document_check(self) -> DocumentCheck | None:
        """Return what checks documents: the record type's, which is asked for once for each collection."""
        if self._ask is None:
            return None
        root = self._execution.root
        checks = root.document_checks
        if checks is None:
            checks = root.document_checks = {}
        if self._collection not in checks:
            # A nested action of another task may begin anew meanwhile: what is told goes with these.
            checks[self._collection] = await self._ask()
        return checks[self._collection]

    async def _check_unlocked(self, id: str) -> None:
        """A document that somebody has locked is changed by nobody else."""
        if self._check_lock is not None:
            await self._check_lock(id, self._execution.changes_locked_for)

    def _check_writable(self) -> None:
        """An execution that is over writes nothing, nor one that waits for a nested action; a read-only one neither,
        though the one around it may."""
        plan = self._execution.plan
        if self._execution.is_over:
            raise StorageError(f"the execution of {plan.name} is over; its records cannot be used")
        self._execution.check_alone()
        if plan.action.read_only:
            raise failing(ErrorCode.INTERNAL, f"{plan.name} is read-only and cannot write to {self._collection!r}")
