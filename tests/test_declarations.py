"""Mistakes in declarations are found by `create_engine`, and the message names the action."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    ApprovalPolicy,
    ConfigurationError,
    DuplicateActionWarning,
    Engine,
    HookDefinition,
    InMemoryStorage,
    create_action,
    create_actions,
    create_engine,
    create_service,
    create_services,
)
from tests.conftest import Execute


def ok(data: Any) -> Result[Any, ActionError]:
    return Success(data)


def action(name: str = "go", **options: Any) -> Any:
    return create_action(**{"name": name, "description": "", "handler": ok, **options})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty name": ({"name": ""}, "has no name"),
    "a name with a dot": ({"name": "a.b"}, "must not contain a dot"),
    "a handler that cannot be called": ({"handler": 7}, "work.go: the handler must be callable"),
    "a handler without a parameter": ({"handler": lambda: Success(1)}, r"handler\(data\)"),
    "a handler of three parameters": ({"handler": lambda a, b, c: Success(1)}, r"handler\(data, ctx\)"),
    "a handler with a required keyword": ({"handler": eval("lambda data, *, x: data")}, "work.go: a handler"),
    "a hook that names no action": (
        {"hooks": ActionHooks(before=(HookDefinition("work", "nowhere"),))},
        "work.go: its hook work.nowhere names no action",
    ),
    "a hook that hooks itself": ({"hooks": ActionHooks(after=(HookDefinition("work", "go"),))}, "form a cycle"),
    "an unknown actor type": ({"allowed_actors": ["robot"]}, "unknown actor type"),
    "an unknown idempotency": ({"idempotency": "always"}, "idempotency is"),
    "hooks in a list": (
        {"hooks": [HookDefinition("work", "go")]},
        r"work.go: hooks is of the type list: write ActionH",
    ),
    "a hook that is a text": (
        {"hooks": ActionHooks(before=["work.go"])},  # type: ignore[list-item]
        "work.go: a hook is a HookDefinition, .* not 'w",
    ),
    "a timeout of zero": ({"timeout": 0}, "timeout"),
    "a timeout that is a text": ({"timeout": "5"}, "timeout must be a number of seconds above 0, not '5'"),
    "a read-only action with events": ({"read_only": True, "emits": ["x"]}, "read-only"),
    "a read-only action that needs a key": ({"read_only": True, "idempotency": "required"}, "read-only"),
    "a permission on an open action": ({"is_protected": False, "permission": "x"}, "needs a protected action"),
    "roles on an open action": ({"is_protected": False, "access_control": ["csr"]}, "need a protected action"),
    "a resource that is no function": ({"resource": "job"}, "resource must be a function"),
    "a validation that is no type": ({"validation": 42}, "work.go: validation takes"),
    "a validation that is a mapping": ({"validation": {"job": str}}, "work.go: validation takes"),
    "an approval without a permission": (
        {"approval": ApprovalPolicy(when=lambda data, ctx: True, permission="")},
        "needs a permission for the approver",
    ),
    "an approval that expires at once": (
        {"approval": ApprovalPolicy(when=lambda data, ctx: True, permission="x", expires_after=timedelta(0))},
        "expires_after",
    ),
    "an approval that expires after a number": (
        {"approval": ApprovalPolicy(when=lambda data, ctx: True, permission="x", expires_after=3600)},  # type: ignore[arg-type]
        "a timedelta above 0, and a century at most, not 3600",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_at_boot(mistake: str, engine_of: Callable[..., Engine]) -> None:
    options, message = REFUSED[mistake]
    declared = action(**options)
    with pytest.raises(ConfigurationError, match=message):
        engine_of(declared)


def test_a_read_only_action_has_no_hook_that_writes(engine_of: Callable[..., Engine]) -> None:
    reader = action("read", read_only=True, hooks=ActionHooks(before=(HookDefinition("work", "write"),)))
    with pytest.raises(ConfigurationError, match=r"work\.read is read-only, and its hook work\.write is not"):
        engine_of(reader, action("write"))


def test_hooks_in_a_circle_are_refused(engine_of: Callable[..., Engine]) -> None:
    first = action("first", hooks=ActionHooks(before=(HookDefinition("work", "second"),)))
    second = action("second", hooks=ActionHooks(after=(HookDefinition("work", "first"),)))
    with pytest.raises(ConfigurationError, match=r"work\.first -> work\.second -> work\.first"):
        engine_of(first, second)


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([create_service(name="", description="", actions=[])], "needs a name"),
        ([create_service(name="a.b", description="", actions=[])], "without a dot"),
        ([create_service(name="approvals", description="", actions=[])], "built-in"),
        ([create_service(name="a", description="", actions=[])] * 2, "two services named 'a'"),
        (["a"], r"services\[0\] is 'a': make it with create_service"),
        ([(create_service(name="a", description="", actions=[]),)], r"services\[0\] is a tuple: pass its items"),
        ([action("go")], r"services\[0\] is the action 'go': group actions in a service"),
        ([{"name": "a", "description": "", "actions": []}], r"services\[0\] is a mapping: .*create_services"),
        (create_service(name="a", description="", actions=[]), "the service 'a' itself: pass a list"),
        ([create_service(name="a", description="", actions=[7])], r"actions\[0\] is 7: make it with create_action"),  # type: ignore[list-item]
        ([create_service(name="a", description="", actions=[[action("go")]])], r"actions\[0\] is a list: pass"),  # type: ignore[list-item]
    ],
)
def test_a_mistake_in_a_service_is_refused_at_boot(services: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_engine(services=services)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"storage": "postgresql://ann:secret@host/shop"}, "storage is of the type str"),
        ({"storage": InMemoryStorage}, r"storage is the class InMemoryStorage: pass an instance, InMemoryStorage\(…\)"),
        ({"authorizer": {"clerk": ["payments.refund"]}}, "authorizer is of the type dict: .*StaticAuthorizer"),
        ({"limits": {"reruns": 1}}, r"limits is of the type dict: pass Limits"),
        ({"on_duplicate": "raise"}, "on_duplicate is 'overwrite' or 'error', not 'raise'"),
    ],
)
def test_a_wrong_part_of_an_engine_is_refused_at_boot(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        create_engine(services=[], **part)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["on_before_action_handler", "on_after_action_handler"])
def test_a_global_handler_with_the_wrong_arguments_is_refused(name: str) -> None:
    handlers: dict[str, Any] = {name: lambda data: Success(data)}
    with pytest.raises(ConfigurationError, match=name):
        create_engine(services=[], **handlers)


def test_resources_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="mapping"):
        create_engine(services=[], resources=object())  # type: ignore[arg-type]


def test_the_last_of_two_actions_of_one_name_wins_with_a_warning(
    engine_of: Callable[..., Engine], execute: Execute
) -> None:
    with pytest.warns(DuplicateActionWarning, match=r"work\.go") as warned:
        engine = engine_of(action(handler=lambda data: Success("first")), action(handler=lambda data: Success("last")))
    assert execute(engine, "work.go", {}) == Success("last")
    assert warned[0].filename == engine_of.__code__.co_filename, "the caller of create_engine"


def test_two_actions_of_one_name_can_be_refused(engine_of: Callable[..., Engine]) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go is declared twice"):
        engine_of(action(), action(), on_duplicate="error")


def test_declarations_are_frozen() -> None:
    declared = action()
    with pytest.raises(AttributeError):
        declared.name = "other"


def test_factories_take_what_they_are_given() -> None:
    actions = create_actions([action("a"), action("b")])
    services = create_services([{"name": "s", "description": "d", "actions": actions}])
    assert [item.name for item in services[0].actions] == ["a", "b"]
    assert create_services(services) == services


class Twice:
    """A callable object is a handler too."""

    def __call__(self, data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return Success([data, ctx.actor.id if ctx.actor else None])

    def method(self, data: Any) -> Result[Any, ActionError]:
        return Success(data)


def with_default(data: Any, ctx: ActionContext | None = None) -> Result[Any, ActionError]:
    return Success(ctx is not None)


def with_any(*arguments: Any) -> Result[Any, ActionError]:
    return Success(len(arguments))


def with_prefix(prefix: str, data: Any) -> Result[Any, ActionError]:
    return Success(prefix + data)


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (Twice(), ["x", "ann"]),
        (Twice().method, "x"),
        (with_default, True),
        (lambda data, number=7: Success(number), 7),
        (with_any, 2),
        (partial(with_prefix, "p-"), "p-x"),
    ],
)
def test_anything_that_can_be_called_is_a_handler(
    handler: Any, expected: Any, engine_of: Callable[..., Engine], execute: Execute
) -> None:
    engine = engine_of(action(handler=handler))
    assert execute(engine, "work.go", "x") == Success(expected)


class Amount(BaseModel):
    amount: int


@pytest.mark.parametrize(
    ("validation", "payload", "expected"),
    [
        (Amount, {"amount": "3"}, Amount(amount=3)),
        (list[int], ["1", 2], [1, 2]),
        (int, "7", 7),
        (TypeAdapter(int | str), "7", "7"),
        (dict[str, Amount], {"a": {"amount": 1}}, {"a": Amount(amount=1)}),
        (None, {"any": ["thing"]}, {"any": ["thing"]}),
    ],
)
def test_validation_takes_any_type(
    validation: Any, payload: Any, expected: Any, engine_of: Callable[..., Engine], execute: Execute
) -> None:
    engine = engine_of(action(validation=validation))
    assert execute(engine, "work.go", payload) == Success(expected)


def test_booting_says_nothing_when_nothing_is_wrong(engine_of: Callable[..., Engine]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine_of(action("a"), action("b"))
