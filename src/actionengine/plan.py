"""An action made ready to run: everything about its declaration that can be found out at boot, found out once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from functools import cache, partial
from types import FunctionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter
from pydantic.plugin._schema_validator import PluggableSchemaValidator
from pydantic_core import SchemaValidator
from returns.result import Result

from actionengine.actions import Action, ApprovalPolicy, HookDefinition, Service
from actionengine.context import ACTOR_TYPES, PUBLIC
from actionengine.errors import ConfigurationError, sendable
from actionengine.event_types import by_type
from actionengine.masking import NOTHING, Everything, sensitive_names
from actionengine.stored_form import ResultForm

_TYPE_ERRORS = (PydanticUserError, TypeError, NameError, AttributeError)


class ActionPlan:
    """One action of one service, checked and ready. Read only after `routing.link_hooks`."""

    __slots__ = (
        "_names",
        "_result_names",
        "_results",
        "action",
        "after",
        "before",
        "event_types",
        "is_async",
        "is_native",
        "is_silent",
        "model",
        "name",
        "sensitive",
        "service",
        "takes_context",
        "validator",
    )

    def __init__(self, service: Service, action: Action) -> None:
        self.service = service.name
        self.action = action
        self.name = f"{service.name}.{action.name}"
        self._check_declaration()
        self.takes_context = _takes_context(action.handler, self.name)
        self.is_native = hasattr(action.handler, NATIVE)
        self.is_async = is_async(action.handler)
        self.event_types = by_type(action.event_types)
        self.is_silent = False
        """Whether it yields no event of its own: it consumes one."""
        self.model = _validated_type(action.validation)
        """The type that the payload is validated against, or None."""
        self.validator: SchemaValidator | PluggableSchemaValidator | None = None
        self.sensitive = NOTHING
        if action.validation is not None:
            self.validator, self.sensitive = self._compiled(action.validation)
        self._results: ResultForm | None = None
        self._result_names: frozenset[str] | Unknown = UNKNOWN
        self._names: frozenset[str] | Unknown = UNKNOWN
        self.before: tuple[tuple[HookDefinition, ActionPlan], ...] = ()
        self.after: tuple[tuple[HookDefinition, ActionPlan], ...] = ()

    @property
    def results(self) -> ResultForm:
        """The form in which its results are stored under a key."""
        if self._results is None:
            self._results = ResultForm(_result_type(self.action.handler))
        return self._results

    @property
    def result_names(self) -> frozenset[str]:
        """The names under which a result carries a secret, by the handler's annotation."""
        if self._result_names is UNKNOWN:
            value_type = _result_type(self.action.handler)
            self._result_names = NOTHING if value_type is None else sensitive_names(value_type)
        return self._result_names

    @property
    def names(self) -> frozenset[str]:
        """The names under which its input or its result carries a secret, where they are not secret as a whole."""
        if self._names is UNKNOWN:
            parts = (self.sensitive, self.result_names)
            self._names = NOTHING.union(*(part for part in parts if not isinstance(part, Everything)))
        return self._names

    def _check_declaration(self) -> None:
        action, name = self.action, self.name
        if not action.name or not isinstance(action.name, str):
            raise ConfigurationError(f"an action of the service {self.service!r} has no name")
        if "." in action.name:
            raise ConfigurationError(f"{name}: an action's name has no dot in it")
        if len(name) > MAX_ACTION_NAME_LENGTH or sendable(name) != name:
            raise ConfigurationError(
                f"{name!r}: service and action have at most {MAX_ACTION_NAME_LENGTH} characters together, all of which "
                f"UTF-8 can carry"
            )
        if not callable(action.handler):
            raise ConfigurationError(f"{name}: the handler has to be callable, not {action.handler!r}")
        if inspect.isgeneratorfunction(action.handler) or inspect.isasyncgenfunction(action.handler):
            raise ConfigurationError(f"{name}: a handler returns a Result; a generator never does")
        if unknown := set(action.allowed_actors or ()) - ACTOR_TYPES:
            raise ConfigurationError(
                f"{name}: unknown actor type {sorted(unknown)} in allowed_actors; there are {sorted(ACTOR_TYPES)}"
            )
        if action.idempotency not in ("optional", "required", "none"):
            raise ConfigurationError(
                f"{name}: idempotency is 'optional', 'required' or 'none', not {action.idempotency!r}"
            )
        if action.timeout is not None and not action.timeout > 0:
            raise ConfigurationError(f"{name}: a timeout is a number of seconds above 0, not {action.timeout!r}")
        if action.read_only and (action.emits or action.approval or action.idempotency == "required"):
            raise ConfigurationError(
                f"{name}: a read-only action emits nothing, needs no approval and claims no idempotency key"
            )
        if action.permission and not action.is_protected:
            raise ConfigurationError(f"{name}: a permission {action.permission!r} needs a protected action")
        if not action.is_protected and set(action.access_control) - {PUBLIC}:
            raise ConfigurationError(f"{name}: the roles {sorted(action.access_control)} need a protected action")
        if action.resource is not None and not callable(action.resource):
            raise ConfigurationError(f"{name}: resource has to be a function of the input, not {action.resource!r}")
        if action.approval is not None:
            self._check_approval(action.approval)

    def _check_approval(self, policy: ApprovalPolicy) -> None:
        if not callable(policy.when) or is_async(policy.when):
            raise ConfigurationError(f"{self.name}: an approval policy's `when` is a def of (data, ctx)")
        if not policy.permission:
            raise ConfigurationError(f"{self.name}: an approval policy names the permission that the approver needs")
        if not timedelta(0) < policy.expires_after <= _LONGEST_APPROVAL:
            raise ConfigurationError(
                f"{self.name}: an approval policy's expires_after is above 0, and a century at most"
            )

    def _compiled(self, validation: Any) -> tuple[SchemaValidator | PluggableSchemaValidator, frozenset[str]]:
        try:
            return _compiled_class(validation) if isinstance(validation, type) else _compiled_type(validation)
        except _TYPE_ERRORS as error:
            raise ConfigurationError(
                f"{self.name}: validation takes a Pydantic model class, or a type that a TypeAdapter takes, "
                f"not {validation!r} ({error})"
            ) from error


class Unknown(Enum):
    """Not looked up yet."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN
MAX_ACTION_NAME_LENGTH = 250
"""Characters of `service.action`: the action log and the idempotency keys have it in an index."""
_LONGEST_APPROVAL = timedelta(days=36525)
_CONTEXT_NAMES = frozenset({"ctx", "context"})
NATIVE = "__actionengine_native__"


def native(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an `async def` handler that awaits nothing but the unit of work, so that it runs in both worlds."""
    setattr(handler, NATIVE, True)
    return handler


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling this gives a coroutine."""
    while isinstance(function, partial):
        function = function.func
    if type(function) is FunctionType:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _result_type(handler: Callable[..., Any]) -> Any:
    """The type `T` of a handler annotated as returning `Result[T, …]`; None where the annotation names no type."""
    target: Any = handler.func if isinstance(handler, partial) else handler
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        returned = get_type_hints(target, include_extras=True).get("return")
    except _TYPE_ERRORS:
        return None
    origin = get_origin(returned)
    if not (isinstance(origin, type) and issubclass(origin, Result)):
        return None
    value_type = get_args(returned)[0]
    return None if value_type is Any or value_type is object else value_type


def _validated_type(validation: Any) -> Any:
    return validation._type if isinstance(validation, TypeAdapter) else validation


def _compiled_type(validation: Any) -> tuple[SchemaValidator | PluggableSchemaValidator, frozenset[str]]:
    adapter = validation if isinstance(validation, TypeAdapter) else TypeAdapter(validation)
    return adapter.validator, sensitive_names(_validated_type(validation))


_compiled_class = cache(_compiled_type)


def _takes_context(handler: Callable[..., Any], name: str) -> bool:
    """Whether a handler is called as `handler(data, ctx)`. A second parameter that has a default is the context only if
    it is called so: `lambda data, number=number: …` binds a value."""
    if type(handler) is FunctionType:
        # What inspect.signature finds out, for the usual case, at a tenth of the time: ten thousand actions boot.
        code = handler.__code__
        plain = not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) and not code.co_kwonlyargcount
        if plain and not handler.__defaults__ and code.co_argcount in (1, 2):
            return code.co_argcount == 2
    try:
        parameters = tuple(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name}: the handler {handler!r} has no signature to read") from None
    positional = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    rest = any(item.kind is item.VAR_POSITIONAL for item in parameters)
    required = [item for item in parameters if item.default is item.empty and item.kind is not item.VAR_POSITIONAL]
    required = [item for item in required if item.kind is not item.VAR_KEYWORD]
    if not (positional or rest) or len(required) > 2 or any(item not in positional for item in required):
        raise ConfigurationError(
            f"{name}: a handler is called as handler(data) or handler(data, ctx), "
            f"which does not fit {getattr(handler, '__qualname__', handler)}{inspect.signature(handler)}"
        )
    if len(positional) < 2:
        return rest
    return positional[1] in required or positional[1].name in _CONTEXT_NAMES
