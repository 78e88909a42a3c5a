"""The action log: rows come back as written, newest first, and filters find them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from uuid_utils import uuid7

from actionengine.context import Actor, Tenant
from actionengine.errors import ErrorCode
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.rows import LogQuery, LogRow, Recording
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import SYSTEM
from actionengine.testing.rows import HOUR, START, bare_log_row, id_at, log_row
from actionengine.testing.sample import AGENT, CLERK, SampleHarness

SECOND = timedelta(seconds=1)


def comparable(row: LogRow) -> LogRow:
    """Return a row with its JSON decoded, since a backend may format it in its own way."""
    decoded: dict[str, Any] = {
        name: value and json.loads(value)
        for name, value in row._asdict().items()
        if name in ("input", "output", "error")
    }
    return row._replace(**decoded)


async def record_rows(backend: Backend, *rows: LogRow, tenant: Tenant | None = None) -> None:
    """Commit rows of the action log."""
    async with backend.writing(tenant) as unit:
        await unit.record(Recording(rows))


async def find_ids(backend: Backend, **query: Any) -> list[str]:
    """Return the ids of the rows that a query finds."""
    async with backend.reading() as unit:
        return [row.id for row in await unit.read_log(LogQuery(**query))]


class ActionLogConformance(Conformance):
    """The rows of executions."""

    @run_in_mode
    async def test_a_row_comes_back_as_it_was_written(self, backend: Backend) -> None:
        full = log_row(backend.tenant)
        bare = bare_log_row(backend.tenant)

        await record_rows(backend, full, bare)

        async with backend.reading() as unit:
            rows = await unit.read_log(LogQuery())
        assert [comparable(row) for row in rows] == [comparable(bare), comparable(full)]
        assert all(row.started_at.utcoffset() == timedelta(0) for row in rows)
        assert all(isinstance(row.subjects, tuple) for row in rows)

    @run_in_mode
    async def test_what_a_unit_records_in_turns_is_all_kept(self, backend: Backend) -> None:
        first, second = log_row(backend.tenant), log_row(backend.tenant)

        async with backend.writing() as unit:
            await unit.record(Recording((first,)))
            await unit.record(Recording((second,)))

        assert await find_ids(backend) == [second.id, first.id]

    @run_in_mode
    async def test_rows_appear_with_the_commit_and_not_after_a_rollback(self, backend: Backend) -> None:
        unit = backend.unit()
        await unit.record(Recording((log_row(backend.tenant),)))

        assert await find_ids(backend) == []
        await unit.rollback()
        assert await find_ids(backend) == []

    @run_in_mode
    async def test_rows_are_read_newest_first_in_pages(self, backend: Backend) -> None:
        ids = [str(uuid7()) for _ in range(7)]
        for id in (ids[3], ids[0], ids[6], ids[1], ids[5], ids[2], ids[4]):
            await record_rows(backend, log_row(backend.tenant, id=id))

        pages, before = [], None
        for _ in range(4):
            pages.append(await find_ids(backend, before=before, limit=3))
            before = pages[-1][-1] if pages[-1] else before

        newest_first = ids[::-1]
        assert pages == [newest_first[:3], newest_first[3:6], newest_first[6:], []]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, "edcba"),
            ({"subject": "notes/1"}, "ca"),
            ({"subject": "notes/2"}, "cb"),
            ({"subject": "notes/"}, ""),
            ({"subject": "notes/%"}, ""),
            ({"actor_type": "ai"}, "cb"),
            ({"actor_id": "x"}, "eba"),
            ({"actor_type": "ai", "actor_id": "x"}, "b"),
            ({"action": "notes.put"}, "dba"),
            ({"action": "notes"}, ""),
            ({"outcome": "failed"}, "ed"),
            ({"since": START + timedelta(seconds=2)}, "edc"),
            ({"until": START + timedelta(seconds=2)}, "ba"),
            ({"since": START + timedelta(seconds=1), "until": START + timedelta(seconds=3)}, "cb"),
            ({"action": "notes.put", "limit": 1}, "d"),
            ({"subject": "notes/1", "outcome": "failed"}, ""),
            ({"principal": "human:x"}, "cb"),
            ({"principal": "ai:lead"}, "c"),
            ({"principal": "human:x", "subject": "notes/1"}, "c"),
            ({"principal": "ai:lead", "subject": "notes/2", "actor_id": "x"}, ""),
            ({"principal": "human:"}, ""),
        ],
    )
    @run_in_mode
    async def test_rows_are_found_by_what_is_asked_for(
        self, backend: Backend, query: dict[str, Any], expected: str
    ) -> None:
        differing: dict[str, dict[str, Any]] = {
            "a": {"subjects": ("notes/1",), "actor_type": "human", "actor_id": "x"},
            "b": {"subjects": ("notes/2",), "actor_type": "ai", "actor_id": "x", "on_behalf_of": ("human:x",)},
            "c": {
                "subjects": ("notes/2", "notes/1"),
                "actor_type": "ai",
                "actor_id": "y",
                "action": "notes.cut",
                "on_behalf_of": ("ai:lead", "human:x"),
            },
            "d": {"subjects": (), "actor_type": None, "actor_id": None, "outcome": "failed"},
            "e": {
                "subjects": ("notes/11",),
                "actor_type": "human",
                "actor_id": "x",
                "action": "a",
                "outcome": "failed",
            },
        }
        names: dict[str, str] = {}
        for number, (name, fields) in enumerate(differing.items()):
            started_at = START + timedelta(seconds=number)
            fields = {"on_behalf_of": (), **fields}
            row = log_row(backend.tenant, id=id_at(started_at), started_at=started_at, **fields)
            names[row.id] = name
            await record_rows(backend, row)

        assert "".join([names[id] for id in await find_ids(backend, **query)]) == expected

    @pytest.mark.parametrize(
        "query",
        [
            {"subject": "notes/1", "outcome": "failed"},
            {"since": START, "until": START + HOUR, "action": "notes.put", "actor_type": "human"},
            {"principal": "ai:lead", "outcome": "failed"},
        ],
    )
    @run_in_mode
    async def test_a_query_finds_all_its_rows_page_by_page(self, backend: Backend, query: dict[str, Any]) -> None:
        wanted = {"outcome": "failed", "actor_type": "human"}
        rows = [
            log_row(backend.tenant, id=id_at(START, number), **({} if number % 600 else wanted))
            for number in range(1, 1300)
        ]
        await record_rows(backend, *rows)

        ids, pages = [], 0
        async with backend.reading() as unit:
            page = await unit.read_log(LogQuery(**query, limit=3))
            while True:
                ids += [row.id for row in page]
                pages += 1
                if page.next is None:
                    break
                page = await unit.read_log(LogQuery(**query, limit=3, before=page.next))

        assert ids == [row.id for row in reversed(rows) if row.outcome == "failed"]
        assert pages <= 5

    @run_in_mode
    async def test_a_page_ends_with_the_row_that_reaches_its_bytes(self, backend: Backend) -> None:
        large = b'"%b"' % (b"x" * (MAX_PAGE_BYTES // 4))
        rows = [log_row(backend.tenant, id=id_at(START, number), input=large, output=large) for number in range(5)]
        await record_rows(backend, *rows)

        async with backend.reading() as unit:
            first = await unit.read_log(LogQuery())
            second = await unit.read_log(LogQuery(before=first.next))
            last = await unit.read_log(LogQuery(before=second.next))

        assert [[row.id for row in page] for page in (first, second, last)] == [
            [rows[4].id, rows[3].id],
            [rows[2].id, rows[1].id],
            [rows[0].id],
        ]
        assert (first.next, second.next, last.next) == (rows[3].id, rows[1].id, None)

    @run_in_mode
    async def test_a_row_is_found_by_its_time_and_not_by_that_of_its_id(self, backend: Backend) -> None:
        rows = [log_row(backend.tenant, id=id_at(START + seconds * SECOND)) for seconds in (-50, 50)]
        await record_rows(backend, *rows)

        assert await find_ids(backend, since=START, until=START + SECOND) == [rows[1].id, rows[0].id]

    # Actions

    @run_in_mode
    async def test_each_execution_has_its_row(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put", {"id": "n1", "text": "grüße"}, actor=AGENT, key="key"))
        error_of(await harness.execute("notes.crash", {"id": "n2"}), ErrorCode.HANDLER_ERROR)
        error_of(await harness.execute("roles.define", {"name": "x"}), ErrorCode.FORBIDDEN)
        error_of(await harness.execute("action_log.list", {"limit": 0}, actor=SYSTEM), ErrorCode.INVALID_INPUT)

        put, crashed, denied, invalid = await harness.log()

        assert (put.actor_type, put.actor_id, put.action, put.outcome) == ("ai", "agent", "notes.put", "succeeded")
        assert (put.input, put.output) == ({"id": "n1", "text": "grüße"}, {"id": "n1", "text": "grüße"})
        assert (put.subjects, put.idempotency_key, put.source) == (("notes/n1",), "key", "test")
        assert (crashed.outcome, crashed.output) == ("failed", None)
        assert crashed.error is not None
        assert crashed.error["code"] == "handler_error"
        assert (denied.outcome, invalid.outcome) == ("denied", "invalid")

    @run_in_mode
    async def test_the_log_says_who_changed_a_thing(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put", {"id": "n1"}, actor=CLERK))
        value_of(await harness.execute("notes.put", {"id": "n2"}, actor=CLERK))
        value_of(await harness.execute("notes.change", {"id": "n1", "expected_version": 1}, actor=AGENT))

        rows = await harness.log(subject="notes/n1")

        assert [(row.actor_id, row.action) for row in rows] == [("clerk", "notes.put"), ("agent", "notes.change")]

    @run_in_mode
    async def test_the_log_says_for_whom_an_actor_acted(self, harness: SampleHarness) -> None:
        lead = Actor.ai("lead", permissions=["payments.pay"], on_behalf_of=CLERK)
        agent = Actor.ai("agent", permissions=["payments.pay"], on_behalf_of=lead)
        for number, actor in enumerate((agent, CLERK, lead, AGENT)):
            value_of(await harness.execute("notes.put", {"id": f"n{number}"}, actor=actor))
        error_of(await harness.execute("roles.define", {"name": "x"}, actor=agent), ErrorCode.FORBIDDEN)

        async def for_whom(principal: str, **more: Any) -> list[tuple[str, str | None]]:
            return [(row.action, row.actor_id) for row in await harness.log(principal=principal, **more)]

        assert await for_whom("human:clerk") == [
            ("notes.put", "agent"),
            ("notes.put", "lead"),
            ("roles.define", "agent"),
        ]
        assert await for_whom("ai:lead", outcome="succeeded") == [("notes.put", "agent")]
        assert await for_whom("human:clerk", subject="notes/n2") == [("notes.put", "lead")]
        assert await for_whom("human:Clerk") == await for_whom("ai:agent") == []
        rows = await harness.log(action="notes.put")
        assert [row.on_behalf_of for row in rows] == [("ai:lead", "human:clerk"), (), ("human:clerk",), ()]

    @run_in_mode
    async def test_a_nested_execution_points_at_its_parent(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put_around_failures", {}))

        (parent,) = await harness.log(action="notes.put_around_failures")
        children = [row for row in await harness.log() if row.parent_id == parent.id]
        assert sorted((row.action, row.outcome) for row in children) == [
            ("notes.crash", "failed"),
            ("notes.fail", "failed"),
            ("notes.put", "succeeded"),
            ("notes.put", "succeeded"),
        ]

    @run_in_mode
    async def test_the_log_is_paged_by_its_action(self, harness: SampleHarness) -> None:
        for number in range(5):
            value_of(await harness.execute("notes.put", {"id": f"n{number}"}))

        seen: list[str] = []
        before: str | None = None
        for _ in range(4):
            query = {"action": "notes.put", "limit": 2, "before": before}
            page = value_of(await harness.execute("action_log.list", query, actor=SYSTEM))
            seen += [row.output["id"] for row in page.items]
            before = page.next
            if before is None:
                break

        assert seen == ["n4", "n3", "n2", "n1", "n0"]

    @run_in_mode
    async def test_concurrent_executions_have_a_row_each(self, harness: SampleHarness) -> None:
        await harness.backend.gather(*(harness.execute("notes.put", {"id": f"n{number}"}) for number in range(30)))

        rows = await harness.log(action="notes.put")
        assert sorted(row.subjects for row in rows) == sorted((f"notes/n{number}",) for number in range(30))
        assert len({row.id for row in rows}) == 30
