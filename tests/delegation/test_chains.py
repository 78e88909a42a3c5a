"""Chains of actors: the acting one first, then each principal that it acts for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from enum import Enum

import pytest

from actionengine import Actor

CARLA = Actor.human("carla", roles=["dispatcher"])
FACTORIES = [Actor.human, Actor.ai, Actor.integration, Actor.workflow]


@pytest.mark.parametrize("make", FACTORIES)
def test_each_type_but_system_acts_for_another(make: Callable[..., Actor]) -> None:
    agent = make("helper", on_behalf_of=CARLA)
    assert agent.chain == (agent, CARLA)
    assert agent.principal == CARLA
    assert agent != make("helper")
    assert str(agent) == str(make("helper"))


def test_an_actor_without_a_chain_is_its_own_principal() -> None:
    assert CARLA.chain == (CARLA,)
    assert CARLA.principal is CARLA


class Kind(str, Enum):  # noqa: UP042
    """The actor types of a host, whose texts are `Kind.HUMAN` and `Kind.AI`."""

    HUMAN = "human"
    AI = "ai"


def test_a_type_of_an_enumeration_is_that_type() -> None:
    bot = Actor(Kind.AI, "bot", on_behalf_of=Actor(Kind.HUMAN, "carla"))  # type: ignore[arg-type]

    assert [*map(str, bot.chain)] == ["ai:bot", "human:carla"]


def test_the_nearest_principal_comes_first() -> None:
    lead = Actor.ai("lead", on_behalf_of=CARLA)
    agent = Actor.integration("crm", on_behalf_of=Actor.ai("worker", on_behalf_of=lead))
    assert list(map(str, agent.chain)) == ["integration:crm", "ai:worker", "ai:lead", "human:carla"]
    assert agent.principal == CARLA
    assert pickle.loads(pickle.dumps(agent)) == agent


def five_deep() -> Actor:
    agent = CARLA
    for number in range(4):
        agent = Actor.ai(f"agent {number}", on_behalf_of=agent)
    return agent


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (five_deep, "ai:agent 3 is the first of 5 actors.*at most 4 may: leave out"),
        (lambda: Actor.ai("bot", on_behalf_of=Actor.system()), "ai:bot for system:system.*name the person"),
        (lambda: Actor("system", "cron", on_behalf_of=CARLA), "system:cron for human:carla"),
        (lambda: Actor.ai("bot", on_behalf_of="human:carla"), "must be an Actor, such as.*not 'human:carla'"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_chain_says_how_to_write_it(make: Callable[[], Actor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
