"""The net effect of a journal of writes is what a reader of the rows would see."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from actionengine.pipeline.write_set import net_effect
from actionengine.storage.captured import CapturedWrite, WriteJournal

Rows = dict[str, Any]
KEYS = ("a", "b", "c")


def apply(rows: Rows, steps: list[tuple[str, int | None]]) -> tuple[Rows, WriteJournal]:
    """Set each row to a value, or delete it (None). Return the rows after that, and the journal."""
    rows, journal = dict(rows), WriteJournal()
    for id, value in steps:
        before = rows.get(id)
        if before is None and value is None:
            continue
        kind: Any = "insert" if before is None else "delete" if value is None else "update"
        first, last = (to_json(each) if each is not None else None for each in (before, value))
        journal.add(CapturedWrite(kind, "t", id, first, last))
        rows[id] = value
    return rows, journal


starts = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3))
steps = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 3)), max_size=12)


@given(starts, steps)
def test_net_effect_leads_from_the_first_state_to_the_last(start: Rows, steps: list[tuple[str, int | None]]) -> None:
    end, journal = apply(start, steps)
    net = net_effect(journal)
    assert [write.id for write in net] == sorted({write.id for write in net}, key=str)
    for write in net:
        assert write.id is not None
        before, after = (from_json(each) if each is not None else None for each in (write.before, write.after))
        assert (before, after) == (start.get(write.id), end.get(write.id))
        assert write.kind == ("insert" if before is None else "delete" if after is None else "update")
    untouched = set(KEYS) - {write.id for write in net}
    assert all(start.get(id) == end.get(id) for id in untouched)


@given(starts, steps, st.integers(0, 12))
def test_undone_writes_leave_no_trace(start: Rows, steps: list[tuple[str, int | None]], mark: int) -> None:
    _, whole = apply(start, steps)
    _, first = apply(start, steps[:mark])
    whole.undo_to(len(first))
    assert whole == first


def test_a_row_and_a_document_with_one_id_are_two() -> None:
    document = CapturedWrite("insert", "t", "a,b", None, b"1")
    rows = [CapturedWrite("delete", "t", "a,b", b"1", key=key) for key in (("a", "b"), ("a,b",))]
    assert len(net_effect([*rows, document])) == 3
