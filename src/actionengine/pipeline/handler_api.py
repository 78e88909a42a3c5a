"""`HandlerAPI`: the `HandlerPort` of one execution."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from returns.result import Result

from actionengine.concurrency.run_sync import Mode
from actionengine.context import MAX_NAME_LENGTH, AIUsage, RequestContext
from actionengine.errors import ActionError, ErrorCode, check_length, storable_text
from actionengine.event_types import EventType, field_problems
from actionengine.hooks import HookContext
from actionengine.masking.masking import masked_finite_json
from actionengine.pipeline.authorization import Authorization, enforce
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.execution import ApprovedRun, Execution, GrantedApproval
from actionengine.pipeline.guarded_records import GuardedRecords
from actionengine.pipeline.payload import Limits
from actionengine.pipeline.pending_approval import PendingApproval
from actionengine.pipeline.routing import Plans
from actionengine.storage.errors import StorageError
from actionengine.storage.guards import DocumentGuard, RecordGuard
from actionengine.storage.port import Storage, UnitOfWork
from actionengine.storage.records import MAX_ID_LENGTH, RESERVED_PREFIX, AsyncRecords
from actionengine.storage.rows import MAX_SUBJECT_LENGTH
from actionengine.text.names import MAX_PERMISSION_LENGTH, check_permission, nfc

T = TypeVar("T")
Answer = Result[Any, ActionError]


class Nesting(Protocol):
    """The part of the pipeline that starts further executions."""

    def execute_nested(
        self, parent: Execution, service: str, action: str, payload: Any, mode: Mode
    ) -> Coroutine[Any, Any, Answer]:
        """Execute another action in a savepoint of the parent's unit of work."""

    def execute_approved(
        self, parent: Execution, pending: PendingApproval, approved: GrantedApproval
    ) -> Coroutine[Any, Any, ApprovedRun]:
        """Run an approved action in the unit of work of its approval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerServices:
    """The objects that all handlers of one engine share."""

    plans: Plans
    storage: Storage
    resources: Mapping[str, Any]
    limits: Limits
    authorization: Authorization
    nesting: Nesting
    permission_to_approve: Callable[[PendingApproval], str]
    document_guard: DocumentGuard | None = None
    record_guard: RecordGuard | None = None
    budgets: Sequence[BudgetRule] = ()


class HandlerAPI:
    """One execution, as its handler uses it."""

    __slots__ = ("execution", "services")

    def __init__(self, execution: Execution, services: HandlerServices) -> None:
        self.execution = execution
        self.services = services

    @property
    def action_id(self) -> str:
        """The id of the execution."""
        return self.execution.id

    @property
    def action_name(self) -> str:
        """The name of the action, such as `jobs.open`."""
        return self.execution.plan.name

    @property
    def request(self) -> RequestContext:
        """The request."""
        return self.execution.request

    @property
    def hook_context(self) -> HookContext:
        """The execution as its hooks see it. In a hook, the execution that is hooked."""
        return (self.execution.hooked or self.execution).hook_context

    @property
    def resources(self) -> Mapping[str, Any]:
        """The host's own objects: the request's before the engine's."""
        own = self.execution.request.resources
        if not own:
            return self.services.resources
        return MappingProxyType(ChainMap(dict(own), dict(self.services.resources)))

    @property
    def now(self) -> datetime:
        """The time of the outermost execution, in UTC."""
        return self.execution.now

    def new_id(self) -> str:
        """Return a new id, which sorts by time."""
        return self.execution.new_id()

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the unit of work."""
        self.execution.root.has_session = True
        return self.unit_of_work().session

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the unit of work."""
        self.execution.root.has_session = True
        return self.unit_of_work().async_session

    def records(self, collection: str) -> AsyncRecords:
        """Return the tenant's documents of a collection."""
        unit_of_work = self.unit_of_work()
        if not collection or collection.startswith(RESERVED_PREFIX):
            raise ActionError(
                ErrorCode.INTERNAL,
                f"{collection!r} is not a collection for a handler: names are not empty and do not start with "
                f"{RESERVED_PREFIX!r}",
            )
        collection = nfc(collection)
        check_length("the name of the collection", collection, MAX_ID_LENGTH)
        tenant = self.execution.request.tenant
        assert tenant is not None
        guard, locks = self.services.document_guard, self.services.record_guard
        return GuardedRecords(
            unit_of_work.records(collection),
            self.execution,
            collection,
            partial(guard.check, unit_of_work, tenant, collection) if guard is not None else None,
            partial(locks.check, unit_of_work, collection) if locks is not None else None,
        )

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the unit of work to its end inside a `def` handler."""
        try:
            drive = self.running().open().run_sync
        except BaseException:
            coroutine.close()
            raise
        value: T = drive(coroutine)
        return value

    def emit(self, type: str | EventType, payload: Any, subject: str | None) -> None:
        """Add an event to the unit of work."""
        execution = self.running()
        action = execution.plan.action
        given = type if isinstance(type, EventType) else None
        name = given.type if given is not None else type
        declared = execution.plan.event_types.get(name, given) if isinstance(name, str) else None
        if given is not None and declared != given:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"{execution.plan.name} emitted {name!r} by another declaration than its own: emit the one in emits",
            )
        if not isinstance(name, str) or not name or not isinstance(subject, str | None):
            raise ActionError(
                ErrorCode.INTERNAL,
                f"an event needs a type and optionally a subject, both texts; given: {name!r} and {subject!r}",
            )
        name = storable_text(name)
        subject = subject and storable_text(subject)
        if subject is not None and len(subject) > MAX_SUBJECT_LENGTH:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"the subject of the event {name!r} has {len(subject)} characters; at most {MAX_SUBJECT_LENGTH} "
                "are allowed",
            )
        if len(name) > MAX_NAME_LENGTH:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"the type of an event has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed",
            )
        if action.read_only:
            raise ActionError(ErrorCode.INTERNAL, f"{execution.plan.name} is read-only and cannot emit {name!r}")
        if action.emits and name not in action.emits:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"{execution.plan.name} emitted {name!r}, which it does not declare: add it to emits={action.emits!r}",
            )
        encoded = _encode(execution, name, declared, payload)
        max_bytes = self.services.limits.event_bytes
        if len(encoded) > max_bytes:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"the payload of the event {name!r} has {len(encoded)} bytes; at most {max_bytes} are allowed "
                f"(Limits.event_bytes)",
            )
        with execution.lock:
            self.running().check_alone()
            if subject is not None:
                execution.entry.add_subject(subject)
            execution.add_event(name, subject, encoded, declared.version if declared is not None else 1)

    async def execute(self, service: str, action: str, payload: Any, mode: Mode) -> Answer:
        """Execute another action in a savepoint of the unit of work."""
        return await self.services.nesting.execute_nested(self.running(), service, action, payload, mode)

    async def authorize(self, permission: str, resource: str | None) -> None:
        """Ask the authorizer. Raises `ActionError(forbidden)`."""
        name = self.execution.plan.name
        if isinstance(permission, str):
            check_length("the permission", permission, MAX_PERMISSION_LENGTH)
        try:
            check_permission(permission)
        except ValueError as error:
            raise ActionError(ErrorCode.INTERNAL, f"{name}: {error}") from None
        if resource is not None and not isinstance(resource, str):
            raise ActionError(ErrorCode.INTERNAL, f"{name}: a resource is a name such as 'job/17', not {resource!r}")
        if resource is not None:
            check_length("the resource", resource, MAX_SUBJECT_LENGTH)
        execution = self.running()
        enforce(execution, await self.services.authorization.decide(execution, permission, resource))

    def record_ai_usage(self, usage: AIUsage) -> None:
        """Add an AI call to the action log."""
        if not isinstance(usage, AIUsage):
            raise ActionError(ErrorCode.INTERNAL, f"record_ai_usage takes an AIUsage, not {type(usage).__name__}")
        self.running().entry.add_usage(usage)

    def unit_of_work(self) -> UnitOfWork:
        """Return the unit of work. Raises `StorageError` while a nested execution runs."""
        execution = self.running()
        execution.check_alone()
        return execution.open()

    def running(self) -> Execution:
        """Return the execution. Raises `StorageError` once it has ended."""
        if self.execution.is_over:
            raise StorageError(
                f"the execution of {self.execution.plan.name} has ended: use its context only while its handler runs"
            )
        return self.execution


def _encode(execution: Execution, name: str, declared: EventType | None, payload: Any) -> bytes:
    """Return the JSON of an event's payload, masked. Raises `ActionError(internal)` for a payload that does not fit."""
    secrets = execution.secrets
    try:
        if declared is None:
            encoded = masked_finite_json(payload, secrets.learn)
        else:
            encoded = declared.encode(payload, secrets.learn)
        return secrets.mask(encoded) if secrets.has_names else encoded
    except ValidationError as error:
        message = f"the payload of the event {name!r} does not fit its type: {field_problems(error)}"
        raise ActionError(ErrorCode.INTERNAL, message) from None
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise ActionError(ErrorCode.INTERNAL, f"the payload of the event {name!r} has no JSON form: {error}") from None
