"""The server over each storage: `def` handlers run in threads, with the connections of the event loop."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from actionengine import SQLiteStorage
from actionengine.testing import AsyncBackend
from tests.backends import AnyStorage
from tests.mcp_server.conftest import until
from tests.mcp_server.harness import Shop, by


def test_calls_are_concurrent_and_cancelled_alone(each_storage: AnyStorage) -> None:
    backend = AsyncBackend(each_storage)
    shop = Shop(each_storage, services=["shop", "approvals"])

    async def note(client: Any, number: int) -> Any:
        caller = ("acme/carla", "globex/carla")[number % 2]
        return await client.call_tool("shop__note", {"text": str(number)}, meta=by(caller, idempotency_key=str(number)))

    async def talk() -> None:
        async with shop.connect() as client:
            blocked = asyncio.create_task(client.call_tool("shop__block", {}))
            await until(lambda: shop.held.begun.is_set() or blocked.done())
            assert not blocked.done()
            # On SQLite they wait until the blocked one, which has written, is rolled back.
            noting = asyncio.gather(*(note(client, number) for number in range(6)))
            if not isinstance(each_storage, SQLiteStorage):
                await noting
            blocked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            first = await noting
            shop.held.release.set()
            again = await asyncio.gather(*(note(client, number) for number in range(6)))
        assert not any(each.is_error for each in first)
        assert [each.structured_content for each in first] == [each.structured_content for each in again]

    backend.run(talk())
    backend.close()
    assert (shop.count(tenant="acme"), shop.count(tenant="globex")) == (3, 3)
    assert [row.outcome for row in shop.log(action="shop.block")] == ["failed"]


@pytest.mark.parametrize("calls", [30, pytest.param(450, marks=pytest.mark.soak)])
def test_cancelled_calls_take_effect_once_when_repeated(each_storage: AnyStorage, calls: int) -> None:
    backend = AsyncBackend(each_storage)
    shop = Shop(each_storage, services=["shop"])
    chance = Random(7)

    async def note(client: Any, number: int) -> Any:
        return await client.call_tool("shop__note", {"text": str(number)}, meta=by(idempotency_key=str(number)))

    async def give_up(client: Any, number: int) -> None:
        call = asyncio.create_task(note(client, number))
        await asyncio.sleep(chance.random() * 0.03)
        call.cancel()
        await asyncio.wait([call])

    async def talk() -> None:
        async with shop.connect("direct") as client:
            for first in range(0, calls, 10):
                batch = range(first, min(first + 10, calls))
                await asyncio.gather(*(give_up(client, number) for number in batch))
                answers = await asyncio.gather(*(note(client, number) for number in batch))
                assert not any(answer.is_error for answer in answers)

    backend.run(talk())
    backend.close()
    rows = shop.log(action="shop.note")
    assert shop.count() == calls
    assert sum(row.outcome == "succeeded" for row in rows) == calls
    assert len({row.id for row in rows}) == len(rows)
