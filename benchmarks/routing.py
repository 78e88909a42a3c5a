"""Routing in an engine of 100 000 actions against the same in an engine of 10."""

from __future__ import annotations

from itertools import cycle

from returns.result import Result, Success

from actionengine import (
    ActionError,
    Actor,
    Engine,
    InMemoryStorage,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import Call, Contender, take_turns

MANY = 100_000
FEW = 10
_SERVICES = 10
_NOISE = 1.1


def run(seconds: float) -> list[Row]:
    """Looking an action up, and executing one that does nothing. Both engines are asked for ten actions in turn."""
    many, few = _engine(MANY), _engine(FEW)
    looked_up = take_turns(
        (Contender("many", lambda: _look_up(many, MANY)), Contender("few", lambda: _look_up(few, FEW))), seconds / 2
    )
    executed = take_turns(
        (Contender("many", lambda: _execute(many, MANY)), Contender("few", lambda: _execute(few, FEW))), seconds / 2
    )
    return [
        Row(
            "routing_get_action",
            f"get_action with {MANY:,} actions",
            f"the same with {FEW}",
            looked_up["many"],
            looked_up["few"],
            at_most_ratio(_NOISE),
        ),
        Row(
            "routing_execute_action",
            f"execute_action with {MANY:,} actions",
            f"the same with {FEW}",
            executed["many"],
            executed["few"],
            at_most_ratio(_NOISE),
        ),
    ]


def _engine(actions: int) -> Engine:
    each = actions // _SERVICES
    return create_engine(
        services=[
            create_service(
                name=f"service{service}",
                description="",
                actions=[
                    create_action(name=f"action{number}", description="", handler=_nothing, read_only=True)
                    for number in range(each)
                ],
            )
            for service in range(_SERVICES)
        ]
    )


def _nothing(data: object) -> Result[None, ActionError]:
    return Success(None)


def _look_up(engine: Engine, actions: int) -> Call:
    following = cycle(_ten_names(actions)).__next__
    get_action = engine.get_action
    return lambda: get_action(*following())


def _execute(engine: Engine, actions: int) -> Call:
    following = cycle(_ten_names(actions)).__next__
    execute = engine.execute_action
    # A tenant of its own, so that no slice adds to the rows of another.
    tenant = InMemoryStorage().create_tenant(slug="acme", name="Acme")
    request = RequestContext(tenant=tenant, actor=Actor.human("clara"))
    return lambda: execute(*following(), None, request)


def _ten_names(actions: int) -> list[tuple[str, str]]:
    """The last action of each service."""
    return [(f"service{service}", f"action{actions // _SERVICES - 1}") for service in range(_SERVICES)]
