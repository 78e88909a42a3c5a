"""Transactions: a unit of work sees its own writes, is isolated from others, and ends for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic

import pytest
from returns.result import Success

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure, StorageError
from actionengine.storage.port import UnitOfWork
from actionengine.storage.rows import Claim, LogQuery, Recording
from actionengine.testing.backend import AsyncBackend, Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, is_conflict, is_not_found, value_of
from actionengine.testing.sample import SampleHarness

USES: dict[str, Callable[[UnitOfWork], Awaitable[object]]] = {
    "get": lambda unit: unit.records("notes").get("n1"),
    "get of an own write": lambda unit: unit.records("notes").get("own"),
    "list": lambda unit: unit.records("notes").list(),
    "insert": lambda unit: unit.records("notes").insert({}),
    "update": lambda unit: unit.records("notes").update("n1", {}, 1),
    "delete": lambda unit: unit.records("notes").delete("n1", 1),
    "claim": lambda unit: unit.claim(Claim("notes.put", "key", "a" * 64), 0.0),
    "read_log": lambda unit: unit.read_log(LogQuery()),
    "savepoint": lambda unit: unit.savepoint(),
    "record": lambda unit: unit.record(Recording(())),
    "now": lambda unit: unit.now(),
    "commit": lambda unit: unit.commit(),
}
ENDS: dict[str, Callable[[UnitOfWork], Awaitable[None]]] = {
    "commit": lambda unit: unit.commit(),
    "rollback": lambda unit: unit.rollback(),
}


class TransactionConformance(Conformance):
    """Transactions and savepoints."""

    @run_in_mode
    async def test_a_unit_reads_its_own_writes(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"n": 1})

        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.insert({"n": 2}, "n2")
            await notes.update("n1", {"n": 3}, 1)

            first, second = await notes.get("n1"), await notes.get("n2")
            assert first is not None
            assert second is not None
            assert (first.data, second.data) == ({"n": 3}, {"n": 2})
            await notes.delete("n1", 2)
            assert await notes.get("n1") is None

    @run_in_mode
    async def test_units_of_work_tell_one_time_and_it_goes_on(self, backend: Backend) -> None:
        began = monotonic()
        async with backend.reading() as first, backend.writing() as second:
            before = await first.now()
            await backend.sleep(0.02)
            record = await second.records("notes").insert({})
            after = await second.now()
            later = await first.now()
        tolerance = timedelta(seconds=monotonic() - began + 1.0)

        assert before.utcoffset() == timedelta(0)
        assert timedelta(seconds=0.019) <= later - before <= tolerance
        assert max(abs(record.created_at - before), abs(after - later)) <= tolerance

    @run_in_mode
    async def test_first_uses_at_once_are_one_transaction(self, backend: Backend) -> None:
        ids = [f"n{number}" for number in range(6)]
        for is_kept in (False, True):
            unit = backend.unit()
            notes = unit.records("notes")

            made = await backend.gather(*(notes.insert({}, id) for id in ids))
            assert [note.id for note in made] == ids
            await (unit.commit() if is_kept else unit.rollback())

            assert await backend.ids("notes") == (ids if is_kept else [])

    @run_in_mode
    async def test_uncommitted_writes_are_invisible_to_others(self, backend: Backend) -> None:
        await backend.put("notes", "changed", {"n": 1})
        await backend.put("notes", "deleted", {"n": 1})
        unit = backend.unit()
        notes = unit.records("notes")
        await notes.update("changed", {"n": 2}, 1)
        await notes.delete("deleted", 1)
        await notes.insert({"n": 2}, "inserted")

        before = await backend.get("notes", "changed")
        ids_before = await backend.ids("notes")
        await unit.commit()
        after = await backend.get("notes", "changed")

        assert before is not None
        assert after is not None
        assert (before.data, after.data) == ({"n": 1}, {"n": 2})
        assert ids_before == ["changed", "deleted"]
        assert await backend.ids("notes") == ["changed", "inserted"]

    @run_in_mode
    async def test_a_rollback_leaves_no_trace(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"n": 1})
        unit = backend.unit()
        notes = unit.records("notes")
        await notes.update("n1", {"n": 2}, 1)
        await notes.insert({}, "n2")

        await unit.rollback()

        found = await backend.get("notes", "n1")
        assert found is not None
        assert (found.version, found.data) == (1, {"n": 1})
        assert await backend.ids("notes") == ["n1"]

    @run_in_mode
    async def test_what_was_rolled_back_stands_in_nobodys_way(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"n": 1})
        unit = backend.unit()
        await unit.records("notes").update("n1", {"n": 2}, 1)
        await unit.records("notes").insert({"n": 2}, "n2")
        await unit.rollback()

        async with backend.writing() as unit:
            await unit.records("notes").update("n1", {"n": 3}, 1)
            await unit.records("notes").insert({"n": 3}, "n2")

        async with backend.reading() as unit:
            assert [record.data for record in await unit.records("notes").list()] == [{"n": 3}, {"n": 3}]

    @run_in_mode
    async def test_a_rollback_never_raises(self, backend: Backend) -> None:
        unused, rolled_back, committed = backend.unit(), backend.unit(), backend.unit()
        await rolled_back.records("notes").insert({}, "rolled back")
        await rolled_back.rollback()
        await committed.records("notes").insert({}, "committed")
        await committed.commit()

        for unit in (unused, rolled_back, committed):
            await unit.rollback()
            await unit.rollback()

        assert await backend.ids("notes") == ["committed"]

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("use", USES)
    @run_in_mode
    async def test_a_unit_that_is_over_refuses(self, backend: Backend, use: str, end: str) -> None:
        await backend.put("notes", "n1")
        unit = backend.unit()
        await unit.records("notes").insert({}, "own")
        await ENDS[end](unit)

        with pytest.raises(StorageError):
            await USES[use](unit)

        async with backend.writing() as unit:
            answer = await unit.claim(Claim("notes.put", "key", "a" * 64), 0.0)
        assert answer.status == "claimed"

    @pytest.mark.parametrize("use", ["insert", "update", "delete"])
    @run_in_mode
    async def test_a_read_only_unit_refuses_writes(self, backend: Backend, use: str) -> None:
        await backend.put("notes", "n1", {"n": 1})
        unit = backend.unit(read_only=True)

        with pytest.raises((ActionError, StorageError)):
            await USES[use](unit)
        await unit.rollback()

        found = await backend.get("notes", "n1")
        assert found is not None
        assert found.data == {"n": 1}
        assert await backend.ids("notes") == ["n1"]

    # Savepoints

    @run_in_mode
    async def test_rolling_back_to_a_savepoint_undoes_what_came_after_it(self, backend: Backend) -> None:
        await backend.put("notes", "changed", {"n": 1})
        await backend.put("notes", "deleted", {"n": 1})

        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.insert({}, "before")
            savepoint = await unit.savepoint()
            await notes.insert({}, "undone")
            await notes.update("changed", {"n": 2}, 1)
            await notes.delete("deleted", 1)
            await notes.delete("before", 1)
            await unit.rollback_to(savepoint)

            assert [record.id for record in await notes.list()] == ["before", "changed", "deleted"]
            await notes.insert({}, "later")

        assert await backend.ids("notes") == ["before", "changed", "deleted", "later"]
        found = await backend.get("notes", "changed")
        assert found is not None
        assert (found.version, found.data) == (1, {"n": 1})

    @run_in_mode
    async def test_a_change_of_an_own_change_is_undone_alone(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.insert({"n": 1}, "n1")
            savepoint = await unit.savepoint()
            await notes.update("n1", {"n": 2}, 1)
            await notes.update("n1", {"n": 3}, 2)
            await unit.rollback_to(savepoint)

            again = await notes.update("n1", {"n": 4}, 1)

        assert await backend.get("notes", "n1") == again
        assert again.version == 2

    @run_in_mode
    async def test_a_released_savepoint_keeps_what_was_written_since(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            savepoint = await unit.savepoint()
            await unit.records("notes").insert({}, "kept")
            await unit.release(savepoint)

        assert await backend.ids("notes") == ["kept"]

    @run_in_mode
    async def test_an_outer_savepoint_undoes_inner_ones(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            notes = unit.records("notes")
            outer = await unit.savepoint()
            await notes.insert({}, "outer")
            released = await unit.savepoint()
            await notes.insert({}, "released")
            await unit.release(released)
            await unit.savepoint()
            await notes.insert({}, "left open")
            await unit.rollback_to(outer)
            await notes.insert({}, "last")

        assert await backend.ids("notes") == ["last"]

    @run_in_mode
    async def test_an_inner_savepoint_spares_the_outer_one(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            notes = unit.records("notes")
            outer = await unit.savepoint()
            await notes.insert({}, "outer")
            inner = await unit.savepoint()
            await notes.insert({}, "inner")
            await unit.rollback_to(inner)
            await unit.release(outer)

        assert await backend.ids("notes") == ["outer"]

    @run_in_mode
    async def test_a_savepoint_can_be_rolled_back_to_again(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            savepoint = await unit.savepoint()
            for _ in range(3):
                await unit.records("notes").insert({}, "n1")
                await unit.rollback_to(savepoint)

        assert await backend.ids("notes") == []

    # Concurrency

    @pytest.mark.parametrize("use", ["insert", "update", "delete"])
    @run_in_mode
    async def test_of_many_writers_of_a_document_one_wins(self, backend: Backend, use: str) -> None:
        if use != "insert":
            await backend.put("notes", "n1", {"by": "nobody"})

        async def write(name: str) -> bool:
            unit = backend.unit()
            notes = unit.records("notes")
            try:
                if use == "insert":
                    await notes.insert({"by": name}, "n1")
                elif use == "update":
                    await notes.update("n1", {"by": name}, 1)
                else:
                    await notes.delete("n1", 1)
                await unit.records("winners").insert({}, name)
                await backend.sleep(0.005)
                await unit.commit()
            except (ActionError, SerializationFailure) as error:
                if is_conflict(error) or (use == "delete" and is_not_found(error)):
                    return False
                raise
            finally:
                await unit.rollback()
            return True

        won = await backend.gather(*(write(f"w{number}") for number in range(8)))

        assert sum(won) == 1
        winner = f"w{won.index(True)}"
        assert await backend.ids("winners") == [winner]
        found = await backend.get("notes", "n1")
        assert (found and found.data) == (None if use == "delete" else {"by": winner})

    @run_in_mode
    async def test_a_version_that_was_read_before_another_commit_is_stale(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"by": "nobody"})
        is_read = backend.event()

        async def change(name: str, *, reads_first: bool) -> bool:
            unit = backend.unit()
            try:
                if reads_first:
                    await unit.records("notes").get("n1")
                    is_read.set()
                    await backend.sleep(0.1)
                else:
                    await is_read.wait()
                await unit.records("notes").update("n1", {"by": name}, 1)
                await unit.commit()
            except (ActionError, SerializationFailure) as error:
                if not is_conflict(error):
                    raise
                return False
            finally:
                await unit.rollback()
            return True

        won = await backend.gather(change("first", reads_first=True), change("second", reads_first=False))

        assert sum(won) == 1
        found = await backend.get("notes", "n1")
        assert found is not None
        assert (found.version, found.data) == (2, {"by": "first" if won[0] else "second"})

    @run_in_mode
    async def test_a_listing_never_shows_half_of_a_commit(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            for id in ("left", "right"):
                await unit.records("notes").insert({"n": 0}, id)

        async def write() -> None:
            for n in range(1, 21):
                async with backend.writing() as unit:
                    for id in ("left", "right"):
                        await unit.records("notes").update(id, {"n": n}, n)
                await backend.sleep(0)

        async def read() -> None:
            for _ in range(40):
                async with backend.reading() as unit:
                    left, right = await unit.records("notes").list()
                assert left.data == right.data
                await backend.sleep(0)

        await backend.gather(write(), read(), read())

    @run_in_mode
    async def test_no_update_is_lost(self, harness: SampleHarness) -> None:
        await harness.backend.put("notes", "counter", {"number": 0})

        async def count_up() -> int:
            counted = 0
            for _ in range(40):
                answer = await harness.execute("notes.increment", {"id": "counter"})
                if isinstance(answer, Success):
                    counted += 1
                else:
                    error_of(answer, ErrorCode.CONFLICT)
                    await harness.backend.sleep(0)
            return counted

        counted = sum(await harness.backend.gather(*(count_up() for _ in range(6))))

        found = await harness.backend.get("notes", "counter")
        assert found is not None
        assert found.data == {"number": counted}
        assert found.version == counted + 1
        assert counted >= 40

    # Actions

    @pytest.mark.parametrize(
        ("action", "code"), [("fail", ErrorCode.UNPROCESSABLE), ("crash", ErrorCode.HANDLER_ERROR)]
    )
    @run_in_mode
    async def test_a_failed_action_leaves_only_its_log_row(
        self, harness: SampleHarness, action: str, code: ErrorCode
    ) -> None:
        error_of(await harness.execute(f"notes.{action}", {"id": "n1"}), code)

        assert await harness.backend.ids("notes") == []
        assert await harness.event_types() == []
        assert await harness.outcomes(f"notes.{action}") == ["failed"]

    @run_in_mode
    async def test_of_actions_on_one_version_one_succeeds(self, harness: SampleHarness) -> None:
        await harness.backend.put("notes", "n1")

        answers = await harness.backend.gather(
            *(harness.execute("notes.change", {"id": "n1", "expected_version": 1, "by": n}) for n in range(6))
        )

        (winner,) = [number for number, answer in enumerate(answers) if isinstance(answer, Success)]
        for number, answer in enumerate(answers):
            if number != winner:
                error_of(answer, ErrorCode.CONFLICT)
        found = await harness.backend.get("notes", "n1")
        assert found is not None
        assert found.data["by"] == winner

    @run_in_mode
    async def test_a_read_only_action_cannot_write(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.write_after_all", {}), ErrorCode.INTERNAL)

        assert await harness.backend.ids("notes") == []
        assert await harness.outcomes("notes.write_after_all") == ["failed"]

    @run_in_mode
    async def test_a_nested_action_that_fails_undoes_only_itself(self, harness: SampleHarness) -> None:
        assert value_of(await harness.execute("notes.put_around_failures", {})) == [True, False, True, False]

        assert await harness.backend.ids("notes") == ["after", "before", "own"]

    @run_in_mode
    async def test_an_action_that_fails_undoes_its_nested_ones(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.put_and_fail", {"id": "n1"}), ErrorCode.UNPROCESSABLE)

        assert await harness.backend.ids("notes") == []
        assert await harness.event_types() == []
        assert await harness.outcomes("notes.put") == ["failed"]

    @run_in_mode
    async def test_an_interrupted_action_leaves_nothing(self, harness: SampleHarness) -> None:
        interrupted = False
        try:
            await harness.execute("notes.interrupt", {"id": "n1"}, key="key")
        except KeyboardInterrupt:
            interrupted = True

        assert interrupted
        assert await harness.backend.ids("notes") == []
        value_of(await harness.execute("notes.put", {"id": "n1"}))

    @run_in_mode
    async def test_async_def_handlers_work_as_def_ones_do(self, async_backend: AsyncBackend) -> None:
        harness = SampleHarness(async_backend)

        value_of(await harness.execute("notes.put_async", {"id": "n1"}))
        error_of(await harness.execute("notes.crash_async", {"id": "n2"}), ErrorCode.HANDLER_ERROR)
        nested = value_of(await harness.execute("notes.put_around_failures_async", {}))

        assert nested == [True, False, True, False]
        assert await async_backend.ids("notes") == ["after", "before", "n1", "own"]

    @run_in_mode
    async def test_an_action_that_is_cancelled_leaves_nothing(self, async_backend: AsyncBackend) -> None:
        harness = SampleHarness(async_backend)
        task = asyncio.ensure_future(harness.execute("notes.put_and_wait", {"id": "n1"}, key="key"))
        await harness.waiting.wait()

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await async_backend.ids("notes") == []
        value_of(await harness.execute("notes.put", {"id": "n1"}))
        task = asyncio.ensure_future(harness.execute("notes.put_and_wait", {"id": "n2"}, key="key"))
        await harness.waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @run_in_mode
    async def test_a_caller_cancelled_before_its_key_leaves_nothing(self, async_backend: AsyncBackend) -> None:
        harness = SampleHarness(async_backend)
        holder = async_backend.unit()
        await holder.claim(Claim("notes.put", "key", "a" * 64), 0.0)

        task = asyncio.ensure_future(harness.execute("notes.put", {"id": "n1"}, key="key"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await holder.rollback()

        assert await async_backend.ids("notes") == []
        value_of(await harness.execute("notes.put", {"id": "n1"}, key="key"))
