"""`ActionError`: an exception and a value that keeps no part of its execution alive."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from returns.primitives.exceptions import UnwrapFailedError
from returns.result import Failure, Result, Success

from actionengine import (
    AccessRequest,
    Action,
    ActionContext,
    ActionError,
    ActionHooks,
    Decision,
    ErrorCode,
    ErrorCodeValue,
    HookDefinition,
    RequestContext,
)
from actionengine.boundary import PathEscapeError
from tests.conftest import EngineOf, Execute, make_action

TAKEN = ActionError("conflict", "taken", {"slot": "9:00"})


# As a value


def test_strings_of_codes_are_the_codes() -> None:
    assert set(get_args(ErrorCodeValue)) == {code.value for code in ErrorCode}
    for code in ErrorCode:
        assert ActionError(code.value, "x").code is code
        assert ActionError(code, "x").code is code
    with pytest.raises(ValueError, match="unknown error code 'conflic'; expected one of invalid_input, "):
        ActionError("conflic", "x")  # type: ignore[arg-type]


def test_each_code_has_its_http_status() -> None:
    assert {code.value: code.http_status for code in ErrorCode} == {
        "invalid_input": 400,
        "unauthenticated": 401,
        "forbidden": 403,
        "not_found": 404,
        "timeout": 408,
        "conflict": 409,
        "idempotency_in_progress": 409,
        "idempotency_mismatch": 422,
        "unprocessable": 422,
        "approval_required": 202,
        "hook_failed": 422,
        "handler_error": 500,
        "internal": 500,
        "unavailable": 503,
        "rate_limited": 429,
    }


def test_equal_errors_have_equal_parts() -> None:
    assert ActionError("conflict", "taken", {"slot": "9:00"}) == TAKEN
    assert hash(ActionError("conflict", "taken")) == hash(TAKEN)
    assert len({TAKEN, ActionError(ErrorCode.CONFLICT, "taken", {"slot": "9:00"})}) == 1
    assert ActionError("conflict", "taken") != TAKEN
    assert ActionError("internal", "taken", {"slot": "9:00"}) != TAKEN
    assert TAKEN != "taken"


@pytest.mark.parametrize("name", ["code", "message", "details"])
def test_parts_are_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(TAKEN, name, "other")
    with pytest.raises(TypeError):
        TAKEN.details["slot"] = "10:00"  # type: ignore[index]


def test_later_changes_of_the_given_details_are_not_seen() -> None:
    details = {"slot": "9:00"}
    error = ActionError("conflict", "taken", details)
    details["slot"] = "10:00"
    assert error.details == {"slot": "9:00"}


@pytest.mark.parametrize("error", [TAKEN, ActionError("internal", "x"), PathEscapeError("../x", path="../x")])
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_is_equal_and_of_the_same_type(error: ActionError, again: Callable[[ActionError], ActionError]) -> None:
    copied = again(error)
    assert copied == error
    assert type(copied) is type(error)
    assert str(copied) == error.message


def test_an_error_matches_by_its_parts() -> None:
    match Failure(TAKEN):
        case Failure(ActionError(ErrorCode.CONFLICT, message, {"slot": slot})):
            assert (message, slot) == ("taken", "9:00")
        case _:
            pytest.fail("no match")
    assert repr(TAKEN) == "ActionError('conflict', 'taken', {'slot': '9:00'})"


def test_a_message_is_a_text_that_storage_can_keep() -> None:
    assert ActionError("internal", "a\0b\ud800").message == "a\N{REPLACEMENT CHARACTER}b?"
    assert ActionError("internal", 7).message == "7"  # type: ignore[arg-type]


# As an exception


def test_unwrap_shows_the_error_as_the_cause() -> None:
    failed: Result[int, ActionError] = Failure(TAKEN)
    with pytest.raises(UnwrapFailedError) as caught:
        failed.unwrap()
    assert caught.value.__cause__ is TAKEN


def test_it_passes_a_context_manager() -> None:
    @contextlib.contextmanager
    def guarded() -> Iterator[None]:
        try:
            yield
        finally:
            pass

    with pytest.raises(ActionError, match="taken"), guarded():
        raise ActionError("conflict", "taken")


def test_raising_and_returning_mean_the_same(engine_of: EngineOf, execute: Execute) -> None:
    def raises(data: Any) -> Result[Any, ActionError]:
        raise ActionError("conflict", "taken", {"slot": "9:00"})

    engine = engine_of(
        make_action("raises", raises),
        make_action("returns", lambda data: Failure(ActionError("conflict", "taken", {"slot": "9:00"}))),
        make_action("nests", lambda data, ctx: ctx.execute("work", data, {})),
    )
    for name in ("raises", "returns"):
        assert execute(engine, f"work.{name}", {}) == Failure(TAKEN)
        assert execute(engine, "work.nests", name) == Failure(TAKEN)


# References


class Held:
    """An object of a handler."""


def _deep(held: Held, how: str) -> Result[Any, ActionError]:
    try:
        raise ActionError("conflict", "taken", {"slot": "9:00"})
    except ActionError as error:
        if how == "return":
            return Failure(error)
        if how == "chain":
            raise ActionError("conflict", "taken", {"slot": "9:00"}) from error
        raise


@pytest.mark.parametrize("how", ["return", "raise", "chain"])
@pytest.mark.parametrize("where", ["handler", "nested", "before", "guard", "authorizer"])
def test_a_failure_keeps_nothing_of_the_execution_alive(
    engine_of: EngineOf, execute: Execute, how: str, where: str
) -> None:
    held: list[weakref.ref[Held]] = []

    def fail() -> Result[Any, ActionError]:
        mine = Held()
        held.append(weakref.ref(mine))
        return _deep(mine, how)

    def guard(action: Action, payload: Any, context: RequestContext) -> Result[Any, ActionError]:
        return fail() if where == "guard" else Success(None)

    class Asked:
        def authorize(self, request: AccessRequest) -> Decision:
            if where == "authorizer":
                fail().unwrap()
            return Decision(True, "asked")

    def nests(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
        return ctx.execute("work", "fails", {})

    hooks = ActionHooks(before=(HookDefinition("work", "fails", is_critical=True),)) if where == "before" else None
    handlers: dict[str, Callable[..., Any]] = {"handler": lambda data: fail(), "nested": nests}
    engine = engine_of(
        make_action("go", handlers.get(where, lambda data: Success(None)), **({"hooks": hooks} if hooks else {})),
        make_action("fails", lambda data: fail()),
        on_before_action_handler=guard,
        authorizer=Asked(),
    )
    gc.collect()
    gc.disable()
    try:
        error = execute(engine, "work.go", {}).failure()
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
        assert held
        assert [each() for each in held] == [None] * len(held)
    finally:
        gc.enable()
