"""The catalogue of an actor in an engine of 1 000 actions, each with its own permission, against as many single
questions."""

from __future__ import annotations

from returns.result import Result, Success

from actionengine import (
    ActionError,
    Actor,
    Engine,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    create_action,
    create_engine,
    create_service,
)
from benchmarks.report import Row, at_most
from benchmarks.timing import Contender, take_turns

MANY = 1_000
ROLES = 3
_BOUND = 5e-3


def run(seconds: float) -> list[Row]:
    """With roles in code, with roles in storage, and with roles in storage for an agent and its principal."""
    names = [f"role{number}" for number in range(ROLES)]
    ann = Actor.human("ann", names)
    bot = Actor.ai("bot", names, on_behalf_of=ann)
    return [
        _row("catalogue_static", "roles in code", StaticAuthorizer(_roles()), ann, seconds / 3),
        _row("catalogue_rbac", "roles in storage", None, ann, seconds / 3),
        _row("catalogue_rbac_chain", "roles in storage, for two actors", None, bot, seconds / 3),
    ]


def _roles() -> dict[str, Role]:
    """Each role allows a third of the actions, every other one by name, and denies one of them on one thing."""
    return {
        f"role{number}": Role(
            allow=[f"work.a{action}" for action in range(number, MANY, ROLES)],
            deny=[Rule(f"work.a{number}", "thing/1")],
        )
        for number in range(ROLES)
    }


def _row(name: str, roles: str, authorizer: StaticAuthorizer | None, actor: Actor, seconds: float) -> Row:
    engine = _engine(authorizer)
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    if authorizer is None:
        _define_roles(engine, RequestContext(tenant, Actor.system()))
    context = RequestContext(tenant, actor)
    actions = [f"a{number}" for number in range(MANY)]

    def one_by_one() -> list[bool]:
        return [engine.can(context, "work", action).unwrap().allowed for action in actions]

    assert len(engine.catalogue(context, ["work"]).unwrap()) == sum(one_by_one()) == MANY
    times = take_turns(
        (
            Contender("at once", lambda: lambda: engine.catalogue(context, ["work"])),
            Contender("one by one", lambda: one_by_one),
        ),
        seconds,
    )
    what = f"catalogue of {MANY:,} actions, {roles}"
    return Row(name, what, f"{MANY:,} times can()", times["at once"], times["one by one"], at_most(_BOUND))


def _engine(authorizer: StaticAuthorizer | None) -> Engine:
    actions = [
        create_action(
            name=f"a{number}",
            description="",
            handler=_nothing,
            permission=f"work.a{number}",
            resource=str if number % 2 else None,
        )
        for number in range(MANY)
    ]
    return create_engine(services=[create_service(name="work", description="", actions=actions)], authorizer=authorizer)


def _define_roles(engine: Engine, setup: RequestContext) -> None:
    for name, role in _roles().items():
        rules = {
            kind: [{"permission": rule.permission, "resource": rule.resource} for rule in getattr(role, kind)]
            for kind in ("allow", "deny")
        }
        engine.execute_action("roles", "define", {"name": name, **rules}, setup).unwrap()


def _nothing(data: object) -> Result[None, ActionError]:
    return Success(None)
