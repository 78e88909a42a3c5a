"""permitted(agent for person) = permitted(agent) and permitted(person): for the example business, and for any rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import pytest
from examples.field_service.seed import ROLES as OF_BUSINESS
from examples.field_service.services.config import services
from hypothesis import given
from hypothesis import strategies as st

from actionengine import (
    ActionError,
    Actor,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Tenant,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.plan import ActionPlan
from tests.conftest import make_action

ROLES = (None, *OF_BUSINESS)


@pytest.fixture(scope="module")
def business() -> tuple[Engine, Tenant]:
    """The actions of the business, its roles, and the built-in actions, in memory. No handler runs."""
    storage = InMemoryStorage()
    engine = create_engine(services=services, storage=storage)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    context = RequestContext(tenant, Actor.system())
    for name, permissions in OF_BUSINESS.items():
        role = {"name": name, "allow": [{"permission": each} for each in permissions]}
        engine.execute_action("roles", "define", role, context).unwrap()
    return engine, tenant


def permitted(engine: Engine, plan: ActionPlan, actor: Actor, tenant: Tenant, resource: str | None = None) -> bool:
    """Return whether the pipeline lets an actor pass, before the input is read and with its resource."""
    pipeline = engine._pipeline
    execution = Execution(plan, {}, RequestContext(tenant, actor), "sync", engine.storage)
    try:
        run_sync(pipeline.authorize(execution))
        if resource is not None:
            run_sync(pipeline.authorization.authorize_resource(execution, resource))
    except ActionError as error:
        if error.code not in (ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED):
            raise
        return False
    return True


def rights(role: str | None) -> tuple[str, ...]:
    return () if role is None else (role,)


def test_each_action_of_the_business_and_each_pair_of_roles(business: tuple[Engine, Tenant]) -> None:
    engine, tenant = business
    plans = [plan for actions in engine._plans.values() for plan in actions.values()]
    assert len(plans) > 60

    def allowed(actor: Actor) -> list[bool]:
        return [permitted(engine, plan, actor, tenant) for plan in plans]

    persons = {role: allowed(Actor.human("carla", rights(role))) for role in ROLES}
    agents = {role: allowed(Actor.ai("bot", rights(role))) for role in ROLES}
    found = {True: 0, False: 0}
    for mine, theirs in product(ROLES, ROLES):
        chain = Actor.ai("bot", rights(mine), on_behalf_of=Actor.human("carla", rights(theirs)))
        together = allowed(chain)
        assert together == [one and other for one, other in zip(agents[mine], persons[theirs], strict=True)]
        for each in together:
            found[each] += 1
    assert min(found.values()) > 300


@pytest.mark.parametrize("acting", ["human", "integration", "workflow"])
def test_the_actor_types_of_the_business_and_chains_of_three(business: tuple[Engine, Tenant], acting: str) -> None:
    engine, tenant = business
    plans = [plan for actions in engine._plans.values() for plan in actions.values()]
    chosen = ("csr", "manager", "technician")
    for roles in product(chosen, chosen, chosen):
        first, second, third = ((role,) for role in roles)
        behind = Actor.ai("between", second, on_behalf_of=Actor.human("carla", third))
        chain = Actor(acting, "x", first, on_behalf_of=behind)  # type: ignore[arg-type]
        for plan in plans:
            alone = [permitted(engine, plan, Actor(acting, "x", (role,)), tenant) for role in set(roles)]  # type: ignore[arg-type]
            assert permitted(engine, plan, chain, tenant) is all(alone), plan.name


names = st.sampled_from(["a", "b", "c"])
rules = st.builds(Rule, st.sampled_from(["jobs.*", "jobs.book", "*"]), st.none() | st.sampled_from(["job/1", "job/2"]))
roles = st.dictionaries(names, st.builds(Role, st.lists(rules, max_size=2), st.lists(rules, max_size=1)))
actors = st.builds(
    Actor.human,
    st.sampled_from(["carla", "dave"]),
    st.lists(names, max_size=2),
    st.lists(st.sampled_from(["jobs.book", "jobs.*", "other"]), max_size=1),
)


def chain_of(actors: Sequence[Actor]) -> Actor:
    """Return the first actor on behalf of the second, and so on."""
    behind: Actor | None = None
    for actor in reversed(actors):
        behind = Actor(actor.type, actor.id, actor.roles, actor.permissions, on_behalf_of=behind)
    assert behind is not None
    return behind


@given(roles=roles, chain=st.lists(actors, min_size=1, max_size=4), access=st.lists(names, max_size=2))
def test_a_chain_may_do_what_each_of_it_may_do(roles: dict[str, Role], chain: list[Actor], access: list[str]) -> None:
    engine, tenant = _engine(roles, access)
    plan = engine._plans["work"]["book"]
    for resource in (None, "job/1", "job/2"):
        alone = [permitted(engine, plan, actor, tenant, resource) for actor in chain]
        assert permitted(engine, plan, chain_of(chain), tenant, resource) is all(alone)


def _engine(roles: dict[str, Role], access: Iterable[str]) -> tuple[Engine, Tenant]:
    book = make_action(
        "book", lambda data: data, permission="jobs.book", access_control=[*access], resource=lambda data: "job/1"
    )
    service = create_service(name="work", description="", actions=[book])
    storage = InMemoryStorage()
    engine = create_engine(services=[service], storage=storage, authorizer=StaticAuthorizer(roles))
    return engine, storage.create_tenant(slug="acme", name="Acme")
