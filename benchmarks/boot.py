"""Declaring 10 000 actions and making an engine of them against doing so with 1 000: ten times as long, and well under
a second."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, create_model
from returns.result import Result, Success

from actionengine import ActionError, Engine, create_action, create_engine, create_service
from benchmarks.report import Row, at_most
from benchmarks.timing import Call, Contender, take_turns

MANY = 10_000
FEW = 1_000
MODELS = 200
_ACTIONS_IN_A_SERVICE = 100


def run(seconds: float) -> list[Row]:
    """Each action has a handler of its own; first with one model for all, then with 200 of them."""
    return [
        _row("boot_one_model", "one model", 1, seconds / 2),
        _row("boot_many_models", f"{MODELS} models", MODELS, seconds / 2),
    ]


def _row(name: str, models: str, number: int, seconds: float) -> Row:
    contenders = (
        Contender("many", lambda: _boot(MANY, number)),
        Contender("few", lambda: _boot(FEW, number)),
    )
    times = take_turns(contenders, seconds, most_calls=1)
    what = f"boot of {MANY:,} actions with distinct handlers, {models}"
    return Row(name, what, f"the same with {FEW:,}", times["many"], times["few"], at_most(0.5))


def _boot(actions: int, number_of_models: int) -> Call:
    """The models are new each time: nothing about them is known from the boot before."""
    models = [create_model(f"Model{number}", job=(str, ...), amount=(float, ...)) for number in range(number_of_models)]
    handlers = [_handler(number) for number in range(actions)]
    return lambda: _engine(models, handlers)


def _engine(models: list[type[BaseModel]], handlers: list[Callable[[object], Result[int, ActionError]]]) -> Engine:
    actions = [
        create_action(name=f"action{number}", description="", handler=handler, validation=models[number % len(models)])
        for number, handler in enumerate(handlers)
    ]
    return create_engine(
        services=[
            create_service(
                name=f"service{start}", description="", actions=actions[start : start + _ACTIONS_IN_A_SERVICE]
            )
            for start in range(0, len(actions), _ACTIONS_IN_A_SERVICE)
        ]
    )


def _handler(number: int) -> Callable[[object], Result[int, ActionError]]:
    def handler(data: object) -> Result[int, ActionError]:
        return Success(number)

    return handler
