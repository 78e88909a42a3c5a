"""Declarations that disagree with their handler are refused at boot, and an annotation is the validation."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NoReturn, Optional, Protocol, TypeVar, Union

import pytest
from pydantic import AfterValidator, BaseModel, Field, RootModel, TypeAdapter
from returns.result import Failure, Result, Success, safe
from typing_extensions import TypedDict

from actionengine import (
    ActionContext,
    ActionError,
    ActionHooks,
    ConfigurationError,
    Engine,
    ErrorCode,
    HookDefinition,
    create_action,
)
from tests.conftest import Execute

if TYPE_CHECKING:
    from actionengine import ActionContext as Context

EngineOf = Callable[..., Engine]
G = TypeVar("G")
ANY_RESULT = "Result[Any, ActionError]"
__all__ = ["Annotated", "Awaitable", "Mapping", "NoReturn", "Optional", "RootModel", "Sequence"]  # texts name them


class Pay(BaseModel):
    amount: float


class Refund(Pay):
    reason: str = ""


class FrozenPay(Pay, frozen=True):
    pass


class Job(BaseModel):
    number: int


class Page(BaseModel, Generic[G]):
    item: G


class Later(BaseModel):
    x: DefinedNowhere  # type: ignore[name-defined]  # noqa: F821


class LaterInModule(BaseModel):
    part: Part


class Part(BaseModel):
    x: int


@dataclass
class Point:
    x: int


class Shape(TypedDict):
    x: int


class Solid(TypedDict):
    x: int
    y: int


class HasAmount(Protocol):
    amount: float


class Arbitrary:
    pass


def handler_of(data: Any = ..., returns: Any = ANY_RESULT, ctx: Any = ...) -> Callable[..., Any]:
    def handler(data: Any, ctx: Any) -> Any:
        return Success(data)

    given = {"data": data, "return": returns, "ctx": ctx}
    handler.__annotations__ = {name: annotation for name, annotation in given.items() if annotation is not ...}
    return handler


def action_of(handler: Callable[..., Any], validation: Any = None, **options: Any) -> Any:
    return create_action(name="go", description="", handler=handler, validation=validation, **options)


AGREEING: list[tuple[Any, Any]] = [
    ("Pay", Pay),
    (Pay, Pay),
    ("Pay", Refund),
    ("Any", Pay),
    ("object", Pay),
    (..., Pay),
    ("Pay | None", Pay),
    ("Optional[Pay]", Refund),
    ("Pay | Job", Union[Pay, Job]),  # noqa: UP007
    ("Pay | Job", TypeAdapter(Pay | Job)),
    ("HasAmount", Pay),
    ("G", Pay),
    ("Annotated[Pay, 'paid']", Pay),
    ("Shape", Shape),
    ("Shape", Solid),
    ("dict[str, Any]", Shape),
    ("Point", Point),
    ("Page[int]", Page[int]),
    ("Page", Page[int]),
    ("RootModel[int]", RootModel[int]),
    ("list[Pay]", TypeAdapter(list[Pay])),
    ("Sequence[Pay]", TypeAdapter(list[Refund])),
    ("float", int),
    ("int", Annotated[int, Field(gt=1)]),
    ("str", Annotated[int, AfterValidator(str)]),
    ("str", Literal["a"]),
    ("models.Pay", Pay),
    ("None", None),
]
DISAGREEING: list[tuple[Any, Any]] = [
    ("Pay", Job),
    ("Refund", Pay),
    ("dict[str, Any]", Pay),
    ("Pay", dict),
    ("Shape", dict),
    ("int", Pay),
    ("Solid", Shape),
    ("Point", Pay),
    ("Page[int]", Page[str]),
    ("list[Job]", TypeAdapter(list[Pay])),
    ("Pay", Union[Pay, Job]),  # noqa: UP007
    ("None", Pay),
]


@pytest.mark.parametrize(("annotation", "validation"), AGREEING, ids=str)
def test_an_annotation_that_agrees_with_its_validation_boots(
    annotation: Any, validation: Any, engine_of: EngineOf
) -> None:
    engine_of(action_of(handler_of(annotation), validation))


@pytest.mark.parametrize(("annotation", "validation"), DISAGREEING, ids=str)
def test_a_validation_that_the_annotation_contradicts_is_refused(
    annotation: Any, validation: Any, engine_of: EngineOf
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"work\.go: the handler's input is annotated with .* write validation="
    ):
        engine_of(action_of(handler_of(annotation), validation))


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("Pay", {"amount": 1}, {"amuont": 1}),
        (Pay, {"amount": 1}, [1]),
        ("Pay | None", None, {"amuont": 1}),
        ("Annotated[Pay, 'paid']", {"amount": 1}, {}),
        ("Point", {"x": 1}, {"y": 1}),
        ("Shape", {"x": 1}, {}),
        ("Page[int]", {"item": 1}, {"item": "x"}),
        ("list[Pay]", [{"amount": 1}], [{}]),
        ("int", 1, "x"),
        ("None", None, {}),
        (None, None, 1),
        ("LaterInModule", {"part": {"x": 1}}, {"part": {}}),
    ],
)
def test_without_a_validation_the_annotation_is_the_validation(
    annotation: Any, good: Any, bad: Any, engine_of: EngineOf, execute: Execute
) -> None:
    engine = engine_of(action_of(handler_of(annotation)))

    assert isinstance(execute(engine, "work.go", good), Success)
    assert execute(engine, "work.go", bad).failure().code is ErrorCode.INVALID_INPUT
    assert engine.get_action("work", "go").unwrap().validation is not None
    assert engine.get_service_actions("work").unwrap()[0].validation


@pytest.mark.parametrize(
    "annotation", [..., "Any", "object", "dict", "dict[str, Any]", "Mapping[str, Any]", "list[Any]", "G", "BaseModel"]
)
def test_an_annotation_that_says_nothing_lets_every_payload_pass(
    annotation: Any, engine_of: EngineOf, execute: Execute
) -> None:
    engine = engine_of(action_of(handler_of(annotation)))

    assert execute(engine, "work.go", [1, "x"]) == Success([1, "x"])
    assert engine.get_action("work", "go").unwrap().validation is None


@pytest.mark.parametrize(
    "returns",
    [
        "Result",
        "Result[int, ActionError]",
        "Result[Pay, Unresolved]",
        "Success[int]",
        "Result[int, ActionError] | Failure[str]",
        "Awaitable[Result[int, ActionError]]",
        "Awaitable",
        "NoReturn",
        "Any",
        ...,
    ],
)
def test_handlers_that_return_results_boot(returns: Any, engine_of: EngineOf) -> None:
    engine_of(action_of(handler_of("Pay", returns)))


@pytest.mark.parametrize(
    "returns", [int, "int", "None", None, "Pay", "tuple[Pay, int]", "int | Result", "Awaitable[int]"]
)
def test_a_handler_that_returns_no_result_is_refused(returns: Any, engine_of: EngineOf) -> None:
    message = r"work\.go: the handler is annotated to return .*; it has to return a Result: write -> Result\["
    with pytest.raises(ConfigurationError, match=message):
        engine_of(action_of(handler_of("Pay", returns)))


@pytest.mark.parametrize(
    ("data", "returns", "validation"),
    [
        ("Nope", ANY_RESULT, None),
        ("Nope", ANY_RESULT, Pay),
        ("list[Nope]", ANY_RESULT, None),
        ("Pay", "Nope", Pay),
        ("Pay", "Result[Nope, ActionError]", Pay),
    ],
)
def test_an_annotation_that_does_not_resolve_is_refused(
    data: Any, returns: Any, validation: Any, engine_of: EngineOf
) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go: .*does not resolve: name 'Nope' is not defined"):
        engine_of(action_of(handler_of(data, returns), validation))


@pytest.mark.parametrize(
    ("handler", "validation"),
    [
        (handler_of(), Later),
        (handler_of("Later"), None),
        (handler_of(), TypeAdapter(list[Later])),
        (handler_of("Any", "Result[Later, ActionError]"), None),
    ],
)
def test_a_model_with_an_unresolved_reference_is_refused(handler: Any, validation: Any, engine_of: EngineOf) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go: .*name 'DefinedNowhere' is not defined"):
        engine_of(action_of(handler, validation))


def test_a_type_that_no_validation_takes_is_refused(engine_of: EngineOf) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go: validation takes a Pydantic model class.*Arbitrary"):
        engine_of(action_of(handler_of("Arbitrary")))


def swapped(ctx: ActionContext, data: Pay) -> Result[Any, ActionError]:
    return Success(data)


def swapped_for_a_type_checker(it: Context, data: Pay) -> Result[Any, ActionError]:
    return Success(data)


@pytest.mark.parametrize(
    "handler", [swapped, lambda ctx, data: Success(1), lambda context, data: Success(1), handler_of("ActionContext")]
)
@pytest.mark.parametrize("validation", [None, Pay])
def test_a_handler_that_takes_its_context_first_is_refused(handler: Any, validation: Any, engine_of: EngineOf) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go: the handler takes the context as its first parameter"):
        engine_of(action_of(handler, validation))


@pytest.mark.parametrize("ctx", ["Pay", Pay, "dict[str, Any]", "str"])
def test_a_second_parameter_must_accept_the_context(ctx: Any, engine_of: EngineOf) -> None:
    with pytest.raises(ConfigurationError, match=r"work\.go: the handler's second parameter, 'ctx', is annotated with"):
        engine_of(action_of(handler_of("Pay", ANY_RESULT, ctx)))


@pytest.mark.parametrize("ctx", ["ActionContext", ActionContext, "Context", "some.ActionContext", "HasAmount", "Any"])
def test_a_context_may_be_imported_for_a_type_checker_alone(ctx: Any, engine_of: EngineOf) -> None:
    engine_of(action_of(handler_of("Pay", ANY_RESULT, ctx)))


class Harness:
    def __call__(self, data: Pay, ctx: Context) -> Result[float, ActionError]:
        return Success(data.amount)

    def method(self, data: Pay, ctx: Context) -> Result[float, ActionError]:
        return Success(data.amount)

    @classmethod
    def of_class(cls, data: Pay) -> Result[float, ActionError]:
        return Success(data.amount)

    @staticmethod
    def static(data: Pay) -> Result[float, ActionError]:
        return Success(data.amount)


def with_dependency(factor: int, data: Pay, ctx: Context, *, extra: int = 0) -> Result[float, ActionError]:
    return Success(data.amount * factor + extra)


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


@passing_on
def wrapped(data: Pay, ctx: Context) -> Result[float, ActionError]:
    return Success(data.amount)


class Passing:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._function(*arguments, **named)


@Passing
def in_an_object(data: Pay, ctx: Context) -> Result[float, ActionError]:
    return Success(data.amount)


@functools.lru_cache
def remembered(data: FrozenPay) -> Result[float, ActionError]:
    return Success(data.amount)


@safe
def returning_by_a_decorator(data: Pay) -> float:
    return data.amount


@pytest.mark.parametrize(
    "handler",
    [
        Harness(),
        Harness().method,
        Harness.of_class,
        Harness.static,
        functools.partial(with_dependency, 1),
        functools.partial(with_dependency, 1, extra=0),
        wrapped,
        in_an_object,
        functools.partial(in_an_object),
        remembered,
        returning_by_a_decorator,
    ],
)
def test_every_kind_of_callable_is_read(handler: Any, engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(action_of(handler))

    assert handler is returning_by_a_decorator or engine._plans["work"]["go"].result_type is float
    assert execute(engine, "work.go", {"amount": 2}) == Success(2.0)
    assert execute(engine, "work.go", {"amuont": 2}).failure().code is ErrorCode.INVALID_INPUT


def test_classes_inside_a_function_are_found_where_they_can_be(engine_of: EngineOf) -> None:
    class Local(BaseModel):
        x: int

    def named(data: Local) -> Result[Local, ActionError]:
        return Success(data)

    def closed_over(data: Local) -> Result[Any, ActionError]:
        return Success(Local(x=1))

    assert engine_of(action_of(named, Local)).get_action("work", "go").unwrap().validation is Local
    assert engine_of(action_of(closed_over)).get_action("work", "go").unwrap().validation is Local
    with pytest.raises(ConfigurationError, match="the annotation of 'data', Local, does not resolve"):
        engine_of(action_of(named))


def test_a_local_class_is_not_taken_for_another_one_of_its_name(engine_of: EngineOf) -> None:
    class Pay(BaseModel):
        x: int

    def named(data: Pay) -> Result[Any, ActionError]:
        return Success(data)

    engine_of(action_of(named, Pay))


def test_the_annotation_of_a_hook_is_its_validation_too(engine_of: EngineOf, execute: Execute) -> None:
    def pay(data: Pay) -> Result[Any, ActionError]:
        return Success({"number": data.amount})

    def follow(data: Job) -> Result[Any, ActionError]:
        return Success(data.number)

    hooked = create_action(
        name="pay", description="", handler=pay, hooks=ActionHooks(after=(HookDefinition("work", "go"),))
    )
    engine = engine_of(hooked, action_of(follow))

    assert execute(engine, "work.pay", {"amount": 2}) == Success(2)
    assert isinstance(execute(engine, "work.pay", {"amount": 2.5}), Failure)
