"""An action prepared at boot: everything that its declaration tells, found out once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from functools import cache, partial
from types import FunctionType
from typing import Any, Final

from pydantic import PydanticUserError, TypeAdapter
from pydantic.plugin._schema_validator import PluggableSchemaValidator
from pydantic_core import SchemaValidator

from actionengine.actions import Action, ActionHooks, ApprovalPolicy, HookDefinition, Service
from actionengine.context import ACTOR_TYPES, PUBLIC
from actionengine.errors import ConfigurationError, storable_text
from actionengine.event_types import by_type
from actionengine.masking.secret_types import NOTHING, Everything, sensitive_names
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.signatures import read_signature
from actionengine.pipeline.stored_form import ResultForm
from actionengine.text.names import check_pattern, check_permission

_TYPE_ERRORS = (PydanticUserError, TypeError, NameError, AttributeError, KeyError)


class ActionPlan:
    """One action of one service, checked and prepared. Read it only after `routing.link_hooks`."""

    __slots__ = (
        "_names",
        "_result_names",
        "_results",
        "action",
        "after",
        "asks",
        "before",
        "budgets",
        "emits_no_default_event",
        "event_types",
        "has_secrets",
        "is_async",
        "is_internal",
        "is_sync_and_async",
        "model",
        "name",
        "nested_budgets",
        "result_type",
        "sensitive",
        "service",
        "takes_context",
        "validator",
    )

    def __init__(self, service: Service, action: Action) -> None:
        self.service = service.name
        self.asks = service.permissions
        """The permissions that handlers of the service ask for themselves."""
        self.action = action
        self.name = f"{service.name}.{action.name}"
        self._check_declaration()
        signature = read_signature(action.handler, action.validation, self.name)
        self.takes_context = signature.takes_context
        if signature.validation is not action.validation:
            action = self.action = replace(action, validation=signature.validation)
        self.is_sync_and_async = self.is_internal = hasattr(action.handler, SYNC_AND_ASYNC)
        self.is_async = is_async(action.handler)
        self.event_types = by_type(action.event_types)
        self.emits_no_default_event = False
        """True if the action emits no default event: it consumes one."""
        self.model = _validated_type(action.validation)
        """The type that validates the payload, or None."""
        self.validator: SchemaValidator | PluggableSchemaValidator | None = None
        self.sensitive = NOTHING
        if action.validation is not None:
            self.validator, self.sensitive = self._compiled(action.validation)
        self.result_type = signature.result
        """The type of the result, by the handler's annotation, or None."""
        self._results: ResultForm | None = None
        self._result_names: frozenset[str] | Unknown = UNKNOWN
        self._names: frozenset[str] | Unknown = UNKNOWN
        self.has_secrets: bool | None = None
        """The value that `find_secrets` returned; None before the first call."""
        self.before: tuple[tuple[HookDefinition, ActionPlan], ...] = ()
        self.after: tuple[tuple[HookDefinition, ActionPlan], ...] = ()
        self.budgets: tuple[BudgetRule, ...] = ()
        self.nested_budgets: frozenset[str] = frozenset()
        """The budgets of the actions that this one has executed so far, in this process."""

    @property
    def results(self) -> ResultForm:
        """The form in which results are stored under a key."""
        if self._results is None:
            self._results = ResultForm(self.result_type)
        return self._results

    @property
    def result_names(self) -> frozenset[str]:
        """The names under which a result carries a secret, by the handler's annotation."""
        if self._result_names is UNKNOWN:
            self._result_names = NOTHING if self.result_type is None else sensitive_names(self.result_type)
        return self._result_names

    @property
    def names(self) -> frozenset[str]:
        """The names under which the input or the result carries a secret, where the whole is no secret."""
        if self._names is UNKNOWN:
            parts = (self.sensitive, self.result_names)
            self._names = NOTHING.union(*(part for part in parts if not isinstance(part, Everything)))
        return self._names

    def find_secrets(self) -> bool:
        """Return whether the input or the result carries a secret, and keep that as `has_secrets`."""
        self.has_secrets = bool(self.sensitive or self.result_names)
        return self.has_secrets

    def _check_declaration(self) -> None:
        action, name = self.action, self.name
        if not action.name or not isinstance(action.name, str):
            raise ConfigurationError(f"an action of the service {self.service!r} has no name")
        if "." in action.name:
            raise ConfigurationError(f"{name}: an action's name must not contain a dot")
        if len(name) > MAX_ACTION_NAME_LENGTH or storable_text(name) != name:
            raise ConfigurationError(
                f"{name!r}: service and action have at most {MAX_ACTION_NAME_LENGTH} characters together, all of which "
                f"UTF-8 can carry"
            )
        if not callable(action.handler):
            raise ConfigurationError(f"{name}: the handler must be callable, not {action.handler!r}")
        if inspect.isgeneratorfunction(action.handler) or inspect.isasyncgenfunction(action.handler):
            raise ConfigurationError(f"{name}: the handler is a generator function: return a Result")
        if unknown := set(action.allowed_actors or ()) - ACTOR_TYPES:
            raise ConfigurationError(
                f"{name}: unknown actor type {sorted(unknown)} in allowed_actors: use some of {sorted(ACTOR_TYPES)}"
            )
        if action.idempotency not in ("optional", "required", "none"):
            raise ConfigurationError(
                f"{name}: idempotency is 'optional', 'required' or 'none', not {action.idempotency!r}"
            )
        self._check_hooks(action.hooks)
        if action.timeout is not None and not (isinstance(action.timeout, int | float) and action.timeout > 0):
            raise ConfigurationError(f"{name}: timeout must be a number of seconds above 0, not {action.timeout!r}")
        if action.read_only and (action.emits or action.approval or action.idempotency == "required"):
            raise ConfigurationError(
                f"{name}: a read-only action emits nothing, needs no approval and claims no idempotency key"
            )
        if action.title is not None and not (isinstance(action.title, str) and action.title.strip()):
            raise ConfigurationError(f"{name}: title is a text such as 'Refund a payment', not {action.title!r}")
        if action.destructive not in (None, True, False):
            raise ConfigurationError(f"{name}: destructive is True, False or None, not {action.destructive!r}")
        if action.read_only and action.destructive:
            raise ConfigurationError(f"{name}: a read-only action cannot be destructive")
        if action.permission is not None:
            self._check_permission(action.permission)
        for permission in self.asks:
            self._check_permission(permission, check_pattern)
        if starred := [role for role in action.access_control if "*" in role]:
            raise ConfigurationError(f"{name}: access_control must name roles in full: {starred[0]!r} contains a *")
        if action.permission and not action.is_protected:
            raise ConfigurationError(f"{name}: a permission {action.permission!r} needs a protected action")
        if not action.is_protected and set(action.access_control) - {PUBLIC}:
            raise ConfigurationError(f"{name}: the roles {sorted(action.access_control)} need a protected action")
        if action.resource is not None and not callable(action.resource):
            raise ConfigurationError(f"{name}: resource must be a function of the input, not {action.resource!r}")
        if action.approval is not None:
            self._check_approval(action.approval)

    def _check_permission(self, permission: str, check: Callable[[object], None] = check_permission) -> None:
        try:
            check(permission)
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {error}") from None

    def _check_hooks(self, hooks: object) -> None:
        if not isinstance(hooks, ActionHooks):
            raise ConfigurationError(
                f"{self.name}: hooks is of the type {type(hooks).__name__}: write ActionHooks(before=[…], after=[…])"
            )
        for hook in (*hooks.before, *hooks.after):
            if not isinstance(hook, HookDefinition):
                raise ConfigurationError(
                    f"{self.name}: a hook is a HookDefinition, such as HookDefinition('jobs', 'check'), not {hook!r}"
                )

    def _check_approval(self, policy: ApprovalPolicy) -> None:
        if not callable(policy.when) or is_async(policy.when):
            raise ConfigurationError(f"{self.name}: the approval policy's `when` must be a def of (data, ctx)")
        if not policy.permission:
            raise ConfigurationError(f"{self.name}: the approval policy needs a permission for the approver")
        self._check_permission(policy.permission)
        if policy.binds not in ("payload", "effects"):
            raise ConfigurationError(
                f"{self.name}: the approval policy binds 'payload' or 'effects', not {policy.binds!r}"
            )
        age = policy.expires_after
        if not isinstance(age, timedelta) or not timedelta(0) < age <= _MAX_APPROVAL_AGE:
            raise ConfigurationError(
                f"{self.name}: the approval policy's expires_after must be a timedelta above 0, and a century at most, "
                f"not {age!r}"
            )

    def _compiled(self, validation: Any) -> tuple[SchemaValidator | PluggableSchemaValidator, frozenset[str]]:
        try:
            return _compiled_class(validation) if isinstance(validation, type) else _compiled_type(validation)
        except _TYPE_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"{self.name}: validation takes a Pydantic model class, or a type that a TypeAdapter takes (and a "
                f"handler without one annotates its input with such a type, or with Any), not {validation!r} ({reason})"
            ) from error


class Unknown(Enum):
    """Not looked up yet."""

    UNKNOWN = 0


UNKNOWN: Final = Unknown.UNKNOWN
MAX_ACTION_NAME_LENGTH = 250
"""Characters of `service.action`, at most: the action log and the idempotency keys index it."""
_MAX_APPROVAL_AGE = timedelta(days=36525)
SYNC_AND_ASYNC = "__actionengine_sync_and_async__"


def sync_and_async(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an `async def` handler that awaits only its unit of work, so that it runs in both modes with an
    `InternalContext`."""
    setattr(handler, SYNC_AND_ASYNC, True)
    return handler


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling this returns a coroutine."""
    while isinstance(function, partial):
        function = function.func
    if type(function) is FunctionType:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _validated_type(validation: Any) -> Any:
    return validation._type if isinstance(validation, TypeAdapter) else validation


def _compiled_type(validation: Any) -> tuple[SchemaValidator | PluggableSchemaValidator, frozenset[str]]:
    adapter = validation if isinstance(validation, TypeAdapter) else TypeAdapter(validation)
    if not adapter.pydantic_complete:
        adapter.rebuild(raise_errors=True)
    return adapter.validator, sensitive_names(_validated_type(validation))


_compiled_class = cache(_compiled_type)
