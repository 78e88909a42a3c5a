"""Many threads, a few documents: the documents contain the sum of what the threads counted."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
)
from tests.storage.backends import as_ann, engine_on

THREADS = 16
COUNTERS = ("a", "b", "c")


def counting_engine() -> tuple[Engine, RequestContext]:
    def increment(data: dict[str, Any], ctx: ActionContext) -> Result[int, Any]:
        counters = ctx.records("counters")
        for id in data["ids"]:
            found = counters.get(id)
            if found is None:
                counters.insert({"number": 1}, id)
            else:
                counters.update(id, {"number": found.data["number"] + 1}, found.version)
        if data["fails"]:
            return Failure("changed its mind")
        return Success(len(data["ids"]))

    def remove(data: dict[str, Any], ctx: ActionContext) -> Result[int, Any]:
        counters = ctx.records("counters")
        found = counters.get(data["id"])
        if found is None:
            return Success(0)
        counters.delete(found.id, found.version)
        return Success(found.data["number"])

    def total(data: None, ctx: ActionContext) -> Result[dict[str, int], Any]:
        return Success({record.id: record.data["number"] for record in ctx.records("counters").list()})

    storage = InMemoryStorage()
    engine = engine_on(storage, increment, remove, total, service="counters")
    return engine, as_ann(storage.create_tenant(slug="acme", name="Acme"))


def count(engine: Engine, context: RequestContext, seed: int, rounds: int) -> Counter[str]:
    """Work in one thread; return its count. A removal subtracts what others have counted."""
    dice = random.Random(seed)
    counted: Counter[str] = Counter()
    for _ in range(rounds):
        if dice.random() < 0.05:
            id = dice.choice(COUNTERS)
            answer = engine.execute_action("counters", "remove", {"id": id}, context)
            if isinstance(answer, Success):
                counted[id] -= answer.unwrap()
            else:
                assert answer.failure().code is ErrorCode.CONFLICT
            continue
        ids = dice.sample(COUNTERS, dice.randint(1, 3))
        fails = dice.random() < 0.2
        while True:
            answer = engine.execute_action("counters", "increment", {"ids": ids, "fails": fails}, context)
            if isinstance(answer, Success):
                counted.update(ids)
            elif answer.failure().code is ErrorCode.CONFLICT:
                continue
            else:
                assert fails
            break
    return counted


def check_no_update_is_lost(rounds: int) -> None:
    engine, context = counting_engine()

    with ThreadPoolExecutor(THREADS) as threads:
        work = [threads.submit(count, engine, context, seed, rounds) for seed in range(THREADS)]
        expected: Counter[str] = Counter()
        for done in work:
            expected.update(done.result())

    found = engine.execute_action("counters", "total", None, context).unwrap()
    assert found == {id: number for id, number in expected.items() if number}


@pytest.mark.usefixtures("hasty_threads")
def test_no_increment_is_lost_and_none_counts_twice() -> None:
    check_no_update_is_lost(rounds=30)


@pytest.mark.soak
@pytest.mark.usefixtures("hasty_threads")
def test_no_increment_is_lost_and_none_counts_twice_for_long() -> None:
    check_no_update_is_lost(rounds=2000)
