"""Links between executions, approvals, events and runs, and the tree of causes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from uuid_utils import uuid7

from actionengine.errors import ErrorCode
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.rows import EventLink, LogLink, Recording
from actionengine.testing.action_log import record_rows
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import SYSTEM
from actionengine.testing.rows import START, event_row, id_at, log_row
from actionengine.testing.sample import CLERK, MANAGER, SampleHarness

PARENTS = [id_at(START, number) for number in range(3)]


class CauseConformance(Conformance):
    """Rows and events by the columns that link them."""

    @pytest.mark.parametrize(
        ("link", "values", "expected"),
        [
            ("parent_id", PARENTS[:1], "ac"),
            ("parent_id", [PARENTS[1].upper(), PARENTS[0], PARENTS[0]], "abc"),
            ("parent_id", PARENTS[2:], ""),
            ("parent_id", ["no id", "\0"], ""),
            ("approval_id", ["x"], "a"),
            ("approval_id", ["x", "y", "z"], "ab"),
            ("request_id", ["x", "\0", "\ud800"], "c"),
            ("subject", ["notes/1"], "ab"),
            ("subject", ["notes/2", "notes/1"], "abc"),
            ("subject", ["notes/"], ""),
            ("id", [], ""),
        ],
    )
    @run_in_mode
    async def test_rows_are_found_by_any_of_several_values(
        self, backend: Backend, link: LogLink, values: list[str], expected: str
    ) -> None:
        nothing: dict[str, Any] = dict.fromkeys(("approval_id", "request_id"))
        rows = [
            log_row(backend.tenant, id=id_at(START, 10 + number), **{**nothing, **fields})
            for number, fields in enumerate(
                (
                    {"parent_id": PARENTS[0], "approval_id": "x", "subjects": ("notes/1", "notes/2")},
                    {"parent_id": PARENTS[1], "approval_id": "y", "subjects": ("notes/1",)},
                    {"parent_id": PARENTS[0], "request_id": "x", "subjects": ("notes/2",)},
                )
            )
        ]
        foreign = log_row(backend.other_tenant, parent_id=PARENTS[0], approval_id="x", request_id="x")
        await record_rows(backend, *rows[::-1])
        await record_rows(backend, foreign, tenant=backend.other_tenant)
        names = {row.id: name for row, name in zip(rows, "abc", strict=True)}

        async with backend.reading() as unit:
            found = await unit.find_log(link, values, 10)
            by_id = await unit.find_log("id", [row.id for row in (*rows[::-1], foreign)], 10)

        assert "".join(names[row.id] for row in found) == expected
        assert found.next is None
        assert [row.id for row in by_id] == [row.id for row in rows]

    @run_in_mode
    async def test_links_are_followed_up_to_a_limit(self, backend: Backend) -> None:
        rows = [
            log_row(backend.tenant, id=id_at(START, 10 + number), parent_id=PARENTS[number % 2], subjects=("a", "b"))
            for number in range(8)
        ]
        await record_rows(backend, *rows)

        async with backend.reading() as unit:
            first = await unit.find_log("parent_id", PARENTS, 3)
            exactly = await unit.find_log("parent_id", PARENTS[:1], 5)
            twice = await unit.find_log("subject", ["a", "b"], 20)
            some = await unit.find_log("subject", ["a", "b"], 3)

        assert [row.id for row in first] == [row.id for row in rows[:3]]
        assert first.next is not None
        assert [row.id for row in exactly] == [row.id for row in rows[::2]]
        assert exactly.next is None
        assert [row.id for row in twice] == [row.id for row in rows]
        assert (twice.next, some.next is None) == (None, False)

    @run_in_mode
    async def test_linked_rows_end_with_the_bytes_of_a_page(self, backend: Backend) -> None:
        large = b'"%b"' % (b"x" * (MAX_PAGE_BYTES // 2))
        rows = [
            log_row(backend.tenant, id=id_at(START, 10 + number), parent_id=PARENTS[0], input=large)
            for number in range(3)
        ]
        await record_rows(backend, *rows)

        async with backend.reading() as unit:
            page = await unit.find_log("parent_id", PARENTS, 10)

        assert [row.id for row in page] == [row.id for row in rows[:2]]
        assert page.next is not None

    @run_in_mode
    async def test_events_are_found_by_id_and_by_their_execution(self, backend: Backend) -> None:
        actions = [str(uuid7()) for _ in range(2)]
        events = [event_row(backend.tenant, action_id=actions[number % 2], type=f"t{number}") for number in range(4)]
        foreign = event_row(backend.other_tenant, action_id=actions[0])
        for tenant, rows in ((backend.tenant, events), (backend.other_tenant, [foreign])):
            async with backend.writing(tenant) as unit:
                await unit.record(Recording((), rows))

        async def found(link: EventLink, values: list[str], limit: int = 10) -> tuple[list[str], bool]:
            async with backend.reading() as unit:
                page = await unit.find_events(link, values, limit)
            return [event.type for event in page], page.next is None

        assert await found("action_id", [actions[1].upper()]) == (["t1", "t3"], True)
        assert await found("action_id", [*actions, str(uuid4()), "no id"]) == (["t0", "t1", "t2", "t3"], True)
        assert await found("action_id", actions, 2) == (["t0", "t1"], False)
        assert await found("id", [events[2].id, events[0].id, foreign.id]) == (["t0", "t2"], True)
        assert await found("id", ["", "\0"]) == ([], True)
        async with backend.reading() as unit:
            (event,) = await unit.find_events("id", [events[3].id], 1)
        assert event == (event.position, *(getattr(events[3], name) for name in event._fields[1:]))

    @run_in_mode
    async def test_documents_are_read_by_their_ids(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            for id in ("b", "a", "é"):
                await unit.records("notes").insert({"id": id}, id)
            await unit.records("others").insert({}, "c")
        async with backend.writing(backend.other_tenant) as unit:
            await unit.records("notes").insert({"id": "theirs"}, "c")

        async with backend.reading() as unit:
            notes = unit.records("notes")
            found = await notes.get_all(["a", "é", "c", "a", "\0", "", "x" * 300])
            assert await notes.get_all([]) == []
            assert [record.id for record in found] == ["a", "é"]
            assert found[0] == await notes.get("a")

    # Actions

    @run_in_mode
    async def test_the_tree_leads_from_a_request_to_its_approved_execution(self, harness: SampleHarness) -> None:
        asked = error_of(await harness.execute("payments.pay", {"amount": 5000}), ErrorCode.APPROVAL_REQUIRED)
        approval_id = asked.details["approval_id"]
        value_of(await harness.execute("approvals.approve", {"approval_id": approval_id}, actor=MANAGER))
        rows = [row for row in await harness.log() if row.action != "notes.put"]

        trees = [
            value_of(await harness.execute("action_log.tree", query, actor=SYSTEM))
            for query in ({"approval_id": approval_id}, *({"id": row.id} for row in rows))
        ]

        assert [row.approval_id for row in rows if row.action == "payments.pay"] == [approval_id] * 2
        for tree in trees:
            assert [
                (node.depth, node.kind, node.title, node.status) for node in tree.nodes if node.kind != "event"
            ] == [
                (0, "execution", "payments.pay", "approval_required"),
                (1, "approval", "payments.pay", "approved"),
                (2, "execution", "approvals.approve", "succeeded"),
                (3, "execution", "payments.pay", "succeeded"),
            ]
            assert tree.truncated == ()
            assert (tree.root, tree.nodes[1].actor) == (tree.nodes[0].id, str(CLERK))
            for node in tree.nodes[1:]:
                assert node.parent in {each.id for each in tree.nodes}

    @run_in_mode
    async def test_the_tree_has_nested_executions_and_their_events(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put_around_failures", {}))

        (parent,) = await harness.log(action="notes.put_around_failures")
        tree = value_of(await harness.execute("action_log.tree", {"id": parent.id}, actor=SYSTEM))

        nested = [row.id for row in await harness.log() if row.parent_id == parent.id]
        events = await harness.events()
        assert [node.id for node in tree.nodes if node.depth == 1 and node.kind == "execution"] == nested
        assert {node.id for node in tree.nodes if node.kind == "event"} == {event.id for event in events}
        by_event = value_of(await harness.execute("action_log.tree", {"event_id": events[0].id}, actor=SYSTEM))
        assert by_event.nodes == tree.nodes
        assert by_event.id == events[0].id

    @run_in_mode
    async def test_one_execution_is_read_by_its_id(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put", {"id": "n1"}, reason="why"))
        (row,) = await harness.log(action="notes.put")

        assert value_of(await harness.execute("action_log.get", {"id": row.id.upper()}, actor=SYSTEM)) == row
        (read,) = await harness.log(action="action_log.get")
        assert read.output == {"id": row.id}

    @run_in_mode
    async def test_another_tenants_things_are_not_found(self, harness: SampleHarness) -> None:
        asked = error_of(await harness.execute("payments.pay", {"amount": 5000}), ErrorCode.APPROVAL_REQUIRED)
        value_of(await harness.execute("notes.put", {"id": "n1"}))
        (row, *_), (event, *_) = await harness.log(), await harness.events()
        other = harness.backend.other_tenant

        for name, query in (
            ("get", {"id": row.id}),
            ("tree", {"id": row.id}),
            ("tree", {"event_id": event.id}),
            ("tree", {"approval_id": asked.details["approval_id"]}),
            ("tree", {"run_id": asked.details["approval_id"]}),
        ):
            theirs = error_of(
                await harness.execute(f"action_log.{name}", query, actor=SYSTEM, tenant=other), ErrorCode.NOT_FOUND
            )
            (field,) = query
            none = {field: str(uuid7())}
            unknown = error_of(
                await harness.execute(f"action_log.{name}", none, actor=SYSTEM, tenant=other), ErrorCode.NOT_FOUND
            )
            assert theirs.message.replace(query[field], none[field]) == unknown.message

    @pytest.mark.parametrize(
        ("name", "query"),
        [
            ("get", {"id": "no id"}),
            ("get", {"id": ""}),
            ("get", {}),
            ("tree", {}),
            ("tree", {"id": "no id"}),
            ("tree", {"event_id": "\ud800"}),
            ("tree", {"id": None, "run_id": None}),
            ("tree", {"id": id_at(START), "event_id": id_at(START)}),
            ("tree", {"approval_id": "x" * 256}),
            ("tree", {"run_id": "a\0"}),
        ],
    )
    @run_in_mode
    async def test_an_id_that_cannot_be_one_is_refused(
        self, harness: SampleHarness, name: str, query: dict[str, Any]
    ) -> None:
        error_of(await harness.execute(f"action_log.{name}", query, actor=SYSTEM), ErrorCode.INVALID_INPUT)
