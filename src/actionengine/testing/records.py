"""Documents: the promises of `UnitOfWork.records`."""

from __future__ import annotations

import string
from collections.abc import Mapping
from datetime import timedelta
from itertools import product
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionengine.errors import ErrorCode
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.port import UnitOfWork
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, raises_action_error

# Most databases store no NUL, and UTF-8 encodes no surrogate.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def nested(depth: int) -> dict[str, Any]:
    """Return a document of `depth` nested containers."""
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return {"value": value}


def endless() -> dict[str, Any]:
    """Return a document that contains itself."""
    document: dict[str, Any] = {}
    document["self"] = document
    return document


class RecordsConformance(Conformance):
    """Documents of a tenant in one collection."""

    documents: ClassVar[st.SearchStrategy[dict[str, Any]]] = st.dictionaries(TEXTS, VALUES, max_size=6)
    """Values that a document can have. A backend that stores fewer narrows this, and documents it."""

    @run_in_mode
    async def test_an_inserted_document_is_at_version_1_and_has_utc_times(self, backend: Backend) -> None:
        inserted = await backend.put("notes", "n1", {"text": "hello"})

        found = await backend.get("notes", "n1")

        assert found == inserted
        assert (found.id, found.version, found.data) == ("n1", 1, {"text": "hello"})
        assert found.created_at == found.updated_at
        assert found.created_at.utcoffset() == timedelta(0)

    @run_in_mode
    async def test_documents_without_an_id_get_ids_that_sort_by_time(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            ids = [(await unit.records("notes").insert({})).id for _ in range(20)]

        assert len(set(ids)) == 20
        assert ids == sorted(ids)
        assert await backend.ids("notes") == ids

    @run_in_mode
    async def test_an_update_replaces_the_document_and_raises_its_version(self, backend: Backend) -> None:
        inserted = await backend.put("notes", "n1", {"text": "hello", "by": "me"})

        async with backend.writing() as unit:
            updated = await unit.records("notes").update("n1", {"text": "bye"}, 1)

        assert (updated.version, updated.data) == (2, {"text": "bye"})
        assert updated.created_at == inserted.created_at
        assert updated.updated_at >= inserted.updated_at
        assert await backend.get("notes", "n1") == updated

    @run_in_mode
    async def test_one_unit_can_change_a_document_again_and_again(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.insert({"n": 1}, "n1")
            await notes.update("n1", {"n": 2}, 1)
            await notes.delete("n1", 2)
            await notes.insert({"n": 3}, "n1")
            await notes.update("n1", {"n": 4}, 1)

        found = await backend.get("notes", "n1")
        assert found is not None
        assert (found.version, found.data) == (2, {"n": 4})

    @run_in_mode
    async def test_a_deleted_document_is_gone_and_its_id_free_again(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"text": "old"})

        async with backend.writing() as unit:
            await unit.records("notes").delete("n1", 1)
        assert await backend.get("notes", "n1") is None
        assert await backend.ids("notes") == []

        again = await backend.put("notes", "n1", {"text": "new"})
        assert (again.version, again.data) == (1, {"text": "new"})

    @run_in_mode
    async def test_a_document_that_is_not_there_is_none(self, backend: Backend) -> None:
        await backend.put("notes", "n1")

        assert await backend.get("notes", "n2") is None
        assert await backend.get("letters", "n1") is None

    @run_in_mode
    async def test_a_taken_id_is_a_conflict(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"text": "first"})

        async with backend.writing() as unit:
            notes = unit.records("notes")
            with raises_action_error(ErrorCode.CONFLICT):
                await notes.insert({"text": "second"}, "n1")
            await notes.insert({"text": "mine"}, "n2")
            with raises_action_error(ErrorCode.CONFLICT):
                await notes.insert({"text": "mine too"}, "n2")

        found = await backend.get("notes", "n1")
        assert found is not None
        assert found.data == {"text": "first"}

    @run_in_mode
    async def test_a_stale_version_is_a_conflict(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"n": 1})
        async with backend.writing() as unit:
            await unit.records("notes").update("n1", {"n": 2}, 1)

        for version in (1, 3, 0, -1):
            async with backend.writing() as unit:
                with raises_action_error(ErrorCode.CONFLICT):
                    await unit.records("notes").update("n1", {"n": 3}, version)
                with raises_action_error(ErrorCode.CONFLICT):
                    await unit.records("notes").delete("n1", version)

        found = await backend.get("notes", "n1")
        assert found is not None
        assert (found.version, found.data) == (2, {"n": 2})

    @run_in_mode
    async def test_changing_a_document_that_is_not_there_is_not_found(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            with raises_action_error(ErrorCode.NOT_FOUND):
                await unit.records("notes").update("n1", {}, 1)
            with raises_action_error(ErrorCode.NOT_FOUND):
                await unit.records("notes").delete("n1", 1)

    @run_in_mode
    async def test_a_refused_change_spoils_nothing_else(self, backend: Backend) -> None:
        await backend.put("notes", "taken")

        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.insert({}, "before")
            with raises_action_error(ErrorCode.CONFLICT):
                await notes.insert({}, "taken")
            with raises_action_error(ErrorCode.CONFLICT):
                await notes.update("taken", {}, 9)
            with raises_action_error(ErrorCode.NOT_FOUND):
                await notes.delete("missing", 1)
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await notes.insert({"value": object()}, "odd")
            await notes.insert({}, "later")

        assert await backend.ids("notes") == ["before", "later", "taken"]

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param({"value": object()}, id="an object"),
            pytest.param({"value": float("nan")}, id="not a number"),
            pytest.param({"value": [float("inf"), None]}, id="infinity"),
            pytest.param({"value": b"\xff"}, id="bytes that are no text"),
            pytest.param({"value": "\ud800"}, id="half a surrogate pair"),
            pytest.param(endless(), id="itself"),
            pytest.param(nested(2000), id="2 000 levels"),
            pytest.param(["value"], id="a list"),
            pytest.param("value", id="a text"),
            pytest.param(None, id="nothing"),
        ],
    )
    @run_in_mode
    async def test_data_that_json_cannot_carry_is_refused(self, backend: Backend, data: Mapping[str, Any]) -> None:
        await backend.put("notes", "n1", {"n": 1})

        async with backend.writing() as unit:
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await unit.records("notes").insert(data, "n2")
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await unit.records("notes").update("n1", data, 1)

        assert await backend.ids("notes") == ["n1"]

    @pytest.mark.parametrize("depth", [64, 150, 198, 199, 200, 201, 202, 220, 252, 253, 254, 255, 256, 300])
    @run_in_mode
    async def test_a_deeply_nested_document_is_kept_or_refused(self, backend: Backend, depth: int) -> None:
        document = nested(depth)

        try:
            await backend.put("notes", "n1", document)
        except Exception:
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await backend.put("notes", "n1", document)
            assert await backend.ids("notes") == []
        else:
            found = await backend.get("notes", "n1")
            assert found is not None
            assert found.data == document

    @pytest.mark.parametrize("id", ["", "x" * 256, 17, b"n1"])
    @run_in_mode
    async def test_an_id_is_a_text_of_1_to_255_characters(self, backend: Backend, id: Any) -> None:
        async with backend.writing() as unit:
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await unit.records("notes").insert({}, id)

        assert (await backend.put("notes", "x" * 255)).id == "x" * 255

    @pytest.mark.parametrize("id", ["a b", "a/b", "..", "%", "_", "'; --", '"', "\\", "\n", "é", "e\u0301", "中", "😀"])
    @run_in_mode
    async def test_an_id_can_have_any_character(self, backend: Backend, id: str) -> None:
        await backend.put("notes", id, {"n": 1})
        async with backend.writing() as unit:
            await unit.records("notes").update(id, {"n": 2}, 1)

        found = await backend.get("notes", id)
        assert found is not None
        assert (found.id, found.data) == (id, {"n": 2})
        assert await backend.ids("notes") == [id]

    @run_in_mode
    async def test_caller_and_storage_share_no_objects(self, backend: Backend) -> None:
        given_data = {"tags": ["a"]}
        async with backend.writing() as unit:
            notes = unit.records("notes")
            inserted = await notes.insert(given_data, "n1")
            given_data["tags"].append("given")
            inserted.data["tags"].append("inserted")
            read = await notes.get("n1")
            assert read is not None
            read.data["tags"].append("read")
            (listed,) = await notes.list()
            listed.data["tags"].append("listed")

        found = await backend.get("notes", "n1")
        assert found is not None
        assert found.data == {"tags": ["a"]}

    def test_whatever_json_can_carry_comes_back_equal(self, backend: Backend) -> None:
        @settings(max_examples=60, deadline=None, database=None)
        @given(document=self.documents)
        def check(document: dict[str, Any]) -> None:
            backend.run(comes_back(document))

        async def comes_back(document: dict[str, Any]) -> None:
            async with backend.writing() as unit:
                inserted = await unit.records("odd").insert(document)
                own = await unit.records("odd").get(inserted.id)
            found = await backend.get("odd", inserted.id)
            assert inserted == own == found
            assert found is not None
            assert found.data == document

        check()

    # Listing

    @run_in_mode
    async def test_documents_are_listed_by_id_in_the_order_of_code_points(self, backend: Backend) -> None:
        ids = ["b", "a", "B", "é", "Z", "_", "10", "9", "中", "😀", "￿", "a b", "a-b", "ab"]
        async with backend.writing() as unit:
            for id in ids:
                await unit.records("notes").insert({}, id)

        assert await backend.ids("notes") == sorted(ids)

    @pytest.mark.parametrize("limit", [1, 3, 7, 8])
    @run_in_mode
    async def test_paging_gives_each_document_once(self, backend: Backend, limit: int) -> None:
        expected = [f"n{number}" for number in range(7)]
        async with backend.writing() as unit:
            for id in reversed(expected):
                await unit.records("notes").insert({}, id)

        seen: list[str] = []
        async with backend.reading() as unit:
            after: str | None = None
            while page := await unit.records("notes").list(limit=limit, after=after):
                assert len(page) <= limit
                seen += [record.id for record in page]
                after = seen[-1]

        assert seen == expected

    @pytest.mark.parametrize("filter", [None, {"open": True}], ids=["all", "filtered"])
    @run_in_mode
    async def test_a_page_ends_with_the_document_that_reaches_its_bytes(
        self, backend: Backend, filter: dict[str, Any] | None
    ) -> None:
        documents = {id: {"open": True, "text": "ü" * (MAX_PAGE_BYTES // 6)} for id in "abcde"}
        async with backend.writing() as unit:
            for id, data in documents.items():
                await unit.records("notes").insert(data, id)

        async with backend.reading() as unit:
            first = await unit.records("notes").list(filter)
            rest = await unit.records("notes").list(filter, after=first.next)
            backwards = await unit.records("notes").list(filter, descending=True)

        assert ([record.id for record in first], first.next) == (["a", "b", "c"], "c")
        assert ([record.id for record in rest], rest.next) == (["d", "e"], None)
        assert ([record.id for record in backwards], backwards.next) == (["e", "d", "c"], "c")

    @run_in_mode
    async def test_a_document_of_more_bytes_than_a_page_is_a_page(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            for id in "ab":
                await unit.records("notes").insert({"text": "x" * MAX_PAGE_BYTES}, id)

        async with backend.reading() as unit:
            first = await unit.records("notes").list()
            last = await unit.records("notes").list(after=first.next)

        assert ([record.id for record in first], first.next) == (["a"], "a")
        assert [record.id for record in last] == ["b"]

    @pytest.mark.parametrize("limit", [1, 3, 7, 8])
    @run_in_mode
    async def test_pages_can_be_read_from_the_last_document_to_the_first(self, backend: Backend, limit: int) -> None:
        ids = [f"n{number}" for number in range(7)]
        async with backend.writing() as unit:
            for id in ids:
                await unit.records("notes").insert({"even": int(id[1:]) % 2 == 0}, id)

        found: dict[bool, list[str]] = {False: [], True: []}
        async with backend.reading() as unit:
            for is_filtered, seen in found.items():
                filter = {"even": True} if is_filtered else None
                after: str | None = None
                while page := await unit.records("notes").list(filter, limit, after, descending=True):
                    assert len(page) <= limit
                    seen += [record.id for record in page]
                    after = seen[-1]

        assert found == {False: ids[::-1], True: ["n6", "n4", "n2", "n0"]}

    @run_in_mode
    async def test_paging_can_go_on_from_an_id_that_is_not_there(self, backend: Backend) -> None:
        await backend.put("notes", "a")
        await backend.put("notes", "c")

        async with backend.reading() as unit:
            page = await unit.records("notes").list(after="b")
            before = await unit.records("notes").list(after="b", descending=True)

        assert [record.id for record in page] == ["c"]
        assert [record.id for record in before] == ["a"]

    @run_in_mode
    async def test_a_page_has_at_least_1_and_at_most_1000_documents(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            for _ in range(1001):
                await unit.records("notes").insert({})

        async with backend.reading() as unit:
            notes = unit.records("notes")
            assert len(await notes.list()) == 100
            assert len(await notes.list(limit=5000)) == 1000
            for limit in (0, -1):
                with raises_action_error(ErrorCode.INVALID_INPUT):
                    await notes.list(limit=limit)

    @pytest.mark.parametrize(
        ("filter", "expected"),
        [
            ({}, ["list", "object", "one", "text", "true", "without", "null"]),
            ({"value": 1}, ["one"]),
            ({"value": True}, ["true"]),
            ({"value": "1"}, ["text"]),
            ({"value": None}, ["null"]),
            ({"value": [1, True]}, ["list"]),
            ({"value": [1, 1]}, []),
            ({"value": {"a": 1, "b": 2}}, ["object"]),
            ({"value": {"a": 1}}, []),
            ({"value": "%"}, []),
            ({"other": "x"}, ["without"]),
            ({"value": 1, "kind": "number"}, ["one"]),
            ({"value": 1, "kind": "text"}, []),
        ],
    )
    @run_in_mode
    async def test_a_filter_compares_whole_fields_as_json_does(
        self, backend: Backend, filter: dict[str, Any], expected: list[str]
    ) -> None:
        documents: dict[str, dict[str, Any]] = {
            "one": {"value": 1, "kind": "number"},
            "true": {"value": True, "kind": "flag"},
            "text": {"value": "1", "kind": "text"},
            "null": {"value": None},
            "list": {"value": [1, True]},
            "object": {"value": {"b": 2, "a": 1}},
            "without": {"other": "x"},
        }
        async with backend.writing() as unit:
            for id, document in documents.items():
                await unit.records("notes").insert(document, id)

        async with backend.reading() as unit:
            found = await unit.records("notes").list(filter)

        assert [record.id for record in found] == sorted(expected)

    @run_in_mode
    async def test_a_collection_with_lookups_is_filtered_as_any_other(self, backend: Backend) -> None:
        # The library itself uses these filters; a backend may serve them with an index.
        whom: list[dict[str, Any]] = [
            {"assignee": "ann", "status": "open"},
            {"assignee": "ann", "status": "done", "workflow_key": "hire"},
            {"assignee": "a" * 1000, "status": "open", "workflow_key": "hire"},
            {"assignee": "ann", "status": None},
            {"assignee": ["ann"], "status": True},
            {},
        ]
        filters = [{}, *({name: each[name]} for each in whom for name in each), *whom]
        names = ("workflow_assignments", "notes")

        async def listed(unit: UnitOfWork, name: str) -> list[Any]:
            found: list[Any] = []
            for filter in filters:
                for descending in (False, True):
                    page = await unit.records(name).list(filter, 2, None, descending)
                    rest = await unit.records(name).list(filter, 100, page.next, descending) if page.next else ()
                    found.append([(record.id, record.version, record.data) for record in (*page, *rest)])
            return found

        async def check(unit: UnitOfWork) -> None:
            indexed, compared = [await listed(unit, name) for name in names]
            assert indexed == compared

        async with backend.writing() as unit:
            for number, name in product(range(12), names):
                await unit.records(name).insert(whom[number % 6], f"n{number:02}")
            await check(unit)
        async with backend.writing() as unit:
            for number, name in product(range(4), names):
                await unit.records(name).update(f"n{number:02}", whom[5 - number], 1)
                await unit.records(name).delete(f"n{number + 5:02}", 1)
            savepoint = await unit.savepoint()
            for number, name in product(range(12, 15), names):
                await unit.records(name).insert(whom[number % 6], f"n{number:02}")
                await unit.records(name).update("n00", whom[number % 6], number - 10)
            await check(unit)
            await unit.rollback_to(savepoint)
            await check(unit)
        reader, writer = backend.unit(read_only=True), backend.unit()
        await check(reader)
        for number, name in product((0, 1), names):
            await writer.records(name).update(f"n{number:02}", whom[number], 2)
        await writer.commit()
        await check(reader)
        await reader.rollback()
        async with backend.reading() as unit:
            await check(unit)

    @run_in_mode
    async def test_a_filter_is_applied_before_the_page_is_cut(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            for number, letter in enumerate(string.ascii_lowercase):
                await unit.records("notes").insert({"even": number % 2 == 0}, letter)

        async with backend.reading() as unit:
            page = await unit.records("notes").list({"even": True}, limit=3, after="d")

        assert [record.id for record in page] == ["e", "g", "i"]

    @run_in_mode
    async def test_a_filter_that_json_cannot_carry_is_refused(self, backend: Backend) -> None:
        async with backend.reading() as unit:
            with raises_action_error(ErrorCode.INVALID_INPUT):
                await unit.records("notes").list({"value": object()})

    @run_in_mode
    async def test_a_listing_has_the_units_own_writes_in_it(self, backend: Backend) -> None:
        for id in ("a", "b", "c"):
            await backend.put("notes", id, {"open": True})

        async with backend.writing() as unit:
            notes = unit.records("notes")
            await notes.delete("a", 1)
            await notes.update("b", {"open": False}, 1)
            await notes.insert({"open": True}, "d")

            assert [record.id for record in await notes.list()] == ["b", "c", "d"]
            assert [record.id for record in await notes.list({"open": True})] == ["c", "d"]
            assert [record.id for record in await notes.list({"open": True}, limit=1, after="c")] == ["d"]

    @run_in_mode
    async def test_collections_are_apart(self, backend: Backend) -> None:
        await backend.put("notes", "x", {"of": "notes"})
        await backend.put("letters", "x", {"of": "letters"})
        await backend.put("note", "y", {"of": "note"})

        assert await backend.ids("notes") == ["x"]
        found = await backend.get("letters", "x")
        assert found is not None
        assert found.data == {"of": "letters"}
