"""A search of the action log equals a filter that compares each row, page by page, on each storage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from unicodedata import normalize
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionengine import InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.rows import LogQuery, LogRow, Recording
from actionengine.storage.words import MAX_WORD_LENGTH, MAX_WORDS, words_of
from actionengine.testing.rows import START, id_at, log_row
from tests.backends import AnyStorage

SECOND = timedelta(seconds=1)
PARENTS = [id_at(START, 900 + number) for number in range(2)]
WORDS = ["refund", "ticket", "4711", "ünal"]

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "parent_id": st.sampled_from(PARENTS),
    "approval_id": st.sampled_from(["a", "b"]),
    "request_id": st.sampled_from(["r1", "r2"]),
    "idempotency_key": st.sampled_from(["k1", "k2"]),
    "actor_type": st.sampled_from(["human", "ai"]),
    "actor_id": st.sampled_from(["ann", "bob"]),
    "action": st.sampled_from(["notes.put", "notes.cut"]),
    "outcome": st.sampled_from(["succeeded", "failed"]),
}
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.none() | values for name, values in VALUES.items() if name not in ("action", "outcome")},
    **{name: VALUES[name] for name in ("action", "outcome")},
    "subjects": st.lists(st.sampled_from(["s/1", "s/2"]), max_size=2, unique=True).map(tuple),
    "on_behalf_of": st.lists(st.sampled_from(["human:x", "ai:y"]), max_size=2, unique=True).map(tuple),
    "reason": st.none() | st.lists(st.sampled_from(WORDS), max_size=4).map(lambda words: ", ".join(words).upper()),
    "started_at": st.integers(0, 3).map(lambda seconds: START + seconds * SECOND),
}
FILTERS: dict[str, st.SearchStrategy[Any]] = {
    **VALUES,
    "subject": st.sampled_from(["s/1", "s/2"]),
    "principal": st.sampled_from(["human:x", "ai:y"]),
    "words": st.lists(st.sampled_from(WORDS), max_size=3, unique=True).map(tuple),
    "since": FIELDS["started_at"],
    "until": FIELDS["started_at"],
}
QUERIES = st.lists(st.sampled_from(sorted(FILTERS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FILTERS[name] for name in names})
)
"""Few filters at once: more of them find no row."""
LOGS = given(
    fields=st.lists(st.fixed_dictionaries(FIELDS), max_size=25),
    queries=st.lists(QUERIES, min_size=8, max_size=8),
    limit=st.integers(1, 8),
)


def matches(row: LogRow, query: dict[str, Any]) -> bool:
    """Return whether a row has all that a query names, compared without an index."""
    reason = re.split(r"[, ]+", (row.reason or "").lower())
    return (
        all(getattr(row, name) == query[name] for name in VALUES if name in query)
        and ("subject" not in query or query["subject"] in row.subjects)
        and ("principal" not in query or query["principal"] in row.on_behalf_of)
        and ("since" not in query or row.started_at >= query["since"])
        and ("until" not in query or row.started_at < query["until"])
        and all(word in reason for word in query.get("words", ()))
    )


def check(storage: AnyStorage, fields: Sequence[dict[str, Any]], queries: Sequence[dict[str, Any]], limit: int) -> None:
    tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")
    rows = [log_row(tenant, id=id_at(each["started_at"], number), **each) for number, each in enumerate(fields)]
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync")
    run_sync(unit.record(Recording(rows)))
    run_sync(unit.commit())
    for query in queries:
        wanted = sorted((row.id for row in rows if matches(row, query)), reverse=True)
        assert found(storage, tenant, query, limit) == wanted, query


def found(storage: AnyStorage, tenant: Tenant, query: dict[str, Any], limit: int) -> list[str]:
    """Return the ids that a query finds on all its pages."""
    unit = storage.unit_of_work(tenant, "", "sync", read_only=True)
    try:
        page = run_sync(unit.read_log(LogQuery(**query, limit=limit)))
        ids = [row.id for row in page]
        while page.next is not None:
            assert len(page) <= limit
            page = run_sync(unit.read_log(LogQuery(**query, limit=limit, before=page.next)))
            ids += [row.id for row in page]
        return ids
    finally:
        run_sync(unit.rollback())


@settings(max_examples=30, deadline=None)
@LOGS
def test_a_search_finds_what_a_comparison_finds(
    fields: list[dict[str, Any]], queries: list[dict[str, Any]], limit: int
) -> None:
    check(InMemoryStorage(), fields, queries, limit)


@settings(max_examples=12, deadline=None)
@LOGS
def test_a_search_of_a_database_finds_what_a_comparison_finds(
    each_storage: AnyStorage, fields: list[dict[str, Any]], queries: list[dict[str, Any]], limit: int
) -> None:
    check(each_storage, fields, queries, limit)


@pytest.mark.soak
@settings(max_examples=500, deadline=None)
@LOGS
def test_many_searches_find_what_a_comparison_finds(
    each_storage: AnyStorage, fields: list[dict[str, Any]], queries: list[dict[str, Any]], limit: int
) -> None:
    check(each_storage, fields, queries, limit)


@given(st.text())
def test_words_are_folded_runs_of_letters_and_digits(text: str) -> None:
    words = words_of(text)

    assert len(set(words)) == len(words) <= MAX_WORDS
    assert all(word.isalnum() and len(word) <= MAX_WORD_LENGTH for word in words)
    assert words_of(" ".join(words)) == words
    assert words_of(f"({text})") == words


@given(st.text())
def test_words_do_not_depend_on_case_or_form(text: str) -> None:
    for form in (text.casefold(), text.lower(), normalize("NFD", text), normalize("NFKC", text)):
        assert words_of(form) == words_of(text)
