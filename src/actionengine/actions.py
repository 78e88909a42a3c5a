"""Declarations of actions and services. Factories return frozen values; `create_engine` checks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, NotRequired, TypedDict, overload

from pydantic import BaseModel, TypeAdapter
from returns.result import Result
from typing_extensions import TypeVar, Unpack

from actionengine.context import ActorType
from actionengine.event_types import EventType

if TYPE_CHECKING:
    from actionengine.action_context import ActionContext
    from actionengine.storage.guards import DocumentGuard, RecordGuard
    from actionengine.storage.rows import Route

Idempotency = Literal["optional", "required", "none"]
Binds = Literal["payload", "effects"]

Input = TypeVar("Input", default=Any)
Output = TypeVar("Output", default=Any)
Returned = Result[Output, Any] | Awaitable[Result[Output, Any]]
Handler = Callable[[Input], Returned[Output]] | Callable[[Input, "ActionContext"], Returned[Output]]


@dataclass(frozen=True, slots=True)
class HookDefinition:
    """A reference to another action that runs before or after a handler.

    A critical hook that fails stops the execution with `hook_failed`. The failure of another hook is logged, and its
    input passes on.
    """

    service: str
    action: str
    is_critical: bool = True

    @property
    def name(self) -> str:
        """`service.action`."""
        return f"{self.service}.{self.action}"


@dataclass(frozen=True, slots=True, init=False)
class ActionHooks:
    """The hooks of an action: each output is the next one's input."""

    before: tuple[HookDefinition, ...]
    after: tuple[HookDefinition, ...]

    def __init__(self, before: Iterable[HookDefinition] = (), after: Iterable[HookDefinition] = ()) -> None:
        object.__setattr__(self, "before", tuple(before))
        object.__setattr__(self, "after", tuple(after))


@dataclass(frozen=True, slots=True)
class ActionResultConfig:
    """The shape of a result. With `pipeline=True` it is a `PipelineResult`: the value with the hook log."""

    pipeline: bool = False


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """The condition under which an action needs a second person.

    `when(data, ctx)` gets the validated input and returns whether the policy applies. `permission` is the approver's
    permission. A pending approval expires after `expires_after`. `binds` says what the approver agrees to: the payload,
    or the effects: the approval then shows the writes that the action would make, and approving it commits exactly
    these, or answers `conflict`.
    """

    when: Callable[[Any, ActionContext], bool]
    permission: str
    expires_after: timedelta = timedelta(days=7)
    binds: Binds = "payload"


def always(data: Any, ctx: ActionContext) -> bool:
    """The condition of an `ApprovalPolicy` that applies to every execution: `ApprovalPolicy(when=always, …)`.

    The catalogue then tells that the action always needs an approval; of other conditions it only knows that it
    depends.
    """
    return True


@dataclass(frozen=True, slots=True)
class Action(Generic[Input, Output]):
    """A named operation with a handler. The handler takes an `Input` and succeeds with an `Output`. Made by
    `create_action`."""

    name: str
    description: str
    handler: Callable[..., Any]
    validation: Any = None
    hooks: ActionHooks = ActionHooks()
    result: ActionResultConfig = ActionResultConfig()
    is_protected: bool = True
    access_control: tuple[str, ...] = ()
    permission: str | None = None
    allowed_actors: frozenset[ActorType] | None = None
    approval: ApprovalPolicy | None = None
    idempotency: Idempotency = "optional"
    read_only: bool = False
    emits: tuple[str, ...] = ()
    timeout: float | None = None
    resource: Callable[[Any], str] | None = None
    event_types: tuple[EventType, ...] = ()
    title: str | None = None
    destructive: bool | None = None
    examples: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """A named group of actions. Made by `create_service`."""

    name: str
    description: str
    actions: tuple[Action, ...]
    document_guard: Callable[[], DocumentGuard] | None = None
    """Makes the guard of documents of an engine, for the service that has one."""
    record_guard: Callable[[], RecordGuard] | None = None
    """Makes the guard that is asked before a document is changed or deleted."""
    permissions: tuple[str, ...] = ()
    """The permissions that the handlers ask for themselves, patterns included."""
    routes: tuple[Route, ...] = ()
    """Queues of the outbox that get the events of an engine with this service, in addition to the host's."""


class ActionOptions(TypedDict, total=False):
    """The optional part of an action's declaration; `create_action` describes each."""

    hooks: ActionHooks | None
    result: ActionResultConfig | None
    is_protected: bool
    access_control: Iterable[str]
    permission: str | None
    allowed_actors: Iterable[ActorType] | None
    approval: ApprovalPolicy | None
    idempotency: Idempotency
    read_only: bool
    emits: Iterable[str | EventType]
    timeout: float | timedelta | None
    resource: Callable[[Any], str] | None
    title: str | None
    destructive: bool | None
    examples: Iterable[Any]


class ServiceDeclaration(TypedDict):
    """A service as a mapping, for `create_services([{…}, …])`."""

    name: str
    description: str
    actions: Iterable[Action]
    permissions: NotRequired[Iterable[str]]


@overload
def create_action(
    *,
    name: str,
    description: str,
    handler: Handler[Input, Output],
    validation: type[Input] | TypeAdapter[Input],
    **options: Unpack[ActionOptions],
) -> Action[Input, Output]: ...
@overload
def create_action(
    *,
    name: str,
    description: str,
    handler: Handler[Input, Output],
    validation: None = None,
    **options: Unpack[ActionOptions],
) -> Action[Input, Output]: ...
def create_action(
    *,
    name: str,
    description: str,
    handler: Callable[..., Any],
    validation: Any = None,
    hooks: ActionHooks | None = None,
    result: ActionResultConfig | None = None,
    is_protected: bool = True,
    access_control: Iterable[str] = (),
    permission: str | None = None,
    allowed_actors: Iterable[ActorType] | None = None,
    approval: ApprovalPolicy | None = None,
    idempotency: Idempotency = "optional",
    read_only: bool = False,
    emits: Iterable[str | EventType] = (),
    timeout: float | timedelta | None = None,
    resource: Callable[[Any], str] | None = None,
    title: str | None = None,
    destructive: bool | None = None,
    examples: Iterable[Any] = (),
) -> Action:
    """Declare an action.

    Nothing is checked here: `create_engine` refuses what cannot work, naming the action.

    Args:
        name: unique in its service.
        description: a sentence for people and agents.
        handler: `handler(data)` or `handler(data, ctx)`, `def` or `async def`, returning a `Result`.
        validation: a Pydantic model class, a type or a `TypeAdapter` for the payload; None lets any JSON pass.
        hooks: other actions to run before and after the handler.
        result: the shape of the result.
        is_protected: whether an actor must be present.
        access_control: roles of which the actor needs one; empty, or with `"public"` in it, means any.
        permission: the permission that the actor needs, if any.
        allowed_actors: the actor types that may ask; None means all.
        approval: when a second person has to agree.
        idempotency: whether a key is `"optional"`, `"required"`, or ignored (`"none"`).
        read_only: runs in a read-only transaction, emits nothing, claims no key.
        emits: the event types that the handler may emit, as names or as made by `create_event_type`, which also checks
            their payloads; empty means any.
        timeout: bound on the whole execution, in seconds or as a `timedelta`.
        resource: names the thing that a (validated) input is about, such as `"job/17"`: policies can then name it, and
            the action log and the default event carry it as their subject.
        title: a short name for people, such as `"Refund a payment"`; by default it is made of `name`.
        destructive: whether the action may delete or overwrite what cannot be got back. By default, every action counts
            as destructive that is not `read_only`, as in MCP.
        examples: payloads that validate, as JSON values or instances of the model; the catalogue shows them to agents.
    """
    declared = (emits,) if isinstance(emits, str) else tuple(emits)
    return Action(
        name=name,
        description=description,
        handler=handler,
        validation=validation,
        hooks=hooks or ActionHooks(),
        result=result or ActionResultConfig(),
        is_protected=is_protected,
        access_control=_names(access_control),
        permission=permission,
        allowed_actors=None if allowed_actors is None else frozenset(_names(allowed_actors)),
        approval=approval,
        idempotency=idempotency,
        read_only=read_only,
        emits=_names(item.type if isinstance(item, EventType) else item for item in declared),
        event_types=tuple(item for item in declared if isinstance(item, EventType)),
        timeout=timeout.total_seconds() if isinstance(timeout, timedelta) else timeout,
        resource=resource,
        title=title,
        destructive=destructive,
        examples=(examples,) if isinstance(examples, str | Mapping | BaseModel) else tuple(examples),
    )


def create_actions(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Return several actions as one frozen tuple."""
    return tuple(actions)


def create_service(
    *, name: str, description: str, actions: Iterable[Action], permissions: Iterable[str] = ()
) -> Service:
    """Group actions under a name.

    `permissions` are those that no action declares and that handlers ask for themselves (`ctx.authorize`), such as
    `"jobs.archive"` or `"reports.*"`. `roles.define` reports a permission that no declaration names as unknown.
    """
    return Service(name, description, tuple(actions), permissions=_names(permissions))


def create_services(services: Iterable[Service | ServiceDeclaration]) -> tuple[Service, ...]:
    """Return several services as one frozen tuple. A service may be a mapping of `create_service`'s arguments."""
    return tuple(create_service(**item) if isinstance(item, Mapping) else item for item in services)


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """A service, for introspection."""

    name: str
    description: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionSummary:
    """An action, for introspection, without its schema or its handler."""

    name: str
    description: str
    is_protected: bool
    validation: bool
    access_control: tuple[str, ...]
    permission: str | None
    read_only: bool
    idempotency: Idempotency

    @classmethod
    def of(cls, action: Action) -> ActionSummary:
        """Return the summary of a declaration."""
        return cls(
            name=action.name,
            description=action.description,
            is_protected=action.is_protected,
            validation=action.validation is not None,
            access_control=action.access_control,
            permission=action.permission,
            read_only=action.read_only,
            idempotency=action.idempotency,
        )


def _names(names: Iterable[Any]) -> tuple[Any, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
