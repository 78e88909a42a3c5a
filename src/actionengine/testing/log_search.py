"""Searches of the action log: by request, approval, parent, idempotency key, and words of the reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.rows import LogQuery
from actionengine.storage.words import MAX_WORD_LENGTH, MAX_WORDS, words_of
from actionengine.testing.action_log import find_ids, record_rows
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import SYSTEM
from actionengine.testing.rows import HOUR, START, id_at, log_row
from actionengine.testing.sample import CLERK, SampleHarness

PARENT, OTHER_PARENT = id_at(START - HOUR, 1), id_at(START - HOUR, 2)


class LogSearchConformance(Conformance):
    """Filters of the action log with an index each."""

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"parent_id": PARENT}, "cb"),
            ({"parent_id": OTHER_PARENT.upper()}, "d"),
            ({"parent_id": id_at(START)}, ""),
            ({"approval_id": "approval"}, "ba"),
            ({"approval_id": "Approval"}, ""),
            ({"request_id": "request-1"}, "ca"),
            ({"request_id": "request"}, ""),
            ({"request_id": "it's 100% \\ “odd”"}, "e"),
            ({"idempotency_key": "key"}, "db"),
            ({"idempotency_key": ""}, ""),
            ({"parent_id": PARENT, "request_id": "request-1"}, "c"),
            ({"approval_id": "approval", "outcome": "failed"}, "b"),
            ({"idempotency_key": "key", "approval_id": "approval", "subject": "notes/1"}, "b"),
            ({"approval_id": "approval", "subject": "notes/1"}, "b"),
            ({"approval_id": "approval", "subject": "notes/2"}, "a"),
            ({"request_id": "request-1", "principal": "human:x"}, ""),
            ({"words": ("4711",), "subject": "notes/1"}, ""),
            ({"request_id": "request-1", "since": START + timedelta(seconds=1)}, "c"),
            ({"words": ("refund",)}, "dcba"),
            ({"words": ("refund", "4711")}, "ca"),
            ({"words": ("4711", "refund")}, "ca"),
            ({"words": ("refun",)}, ""),
            ({"words": ("null",)}, "e"),
            ({"words": ("straße",)}, ""),
            ({"words": ("hauptstrasse",)}, "b"),
            ({"words": ("refund", "absent")}, ""),
            ({"words": ("refund",), "outcome": "failed"}, "b"),
            ({"words": ("refund",), "request_id": "request-1"}, "ca"),
            ({"words": ("refund",), "subject": "notes/1", "principal": "human:x"}, "db"),
            ({"words": ("refund",), "until": START + timedelta(seconds=2), "limit": 1}, "b"),
        ],
    )
    @run_in_mode
    async def test_rows_are_found_by_their_links_and_words(
        self, backend: Backend, query: dict[str, Any], expected: str
    ) -> None:
        differing: dict[str, dict[str, Any]] = {
            "a": {"approval_id": "approval", "request_id": "request-1", "reason": "Refund #4711, as asked"},
            "b": {
                "parent_id": PARENT,
                "approval_id": "approval",
                "idempotency_key": "key",
                "reason": "refund to Hauptstraße 3",
                "outcome": "failed",
            },
            "c": {"parent_id": PARENT, "request_id": "request-1", "reason": "4711: refund! Refund."},
            "d": {"parent_id": OTHER_PARENT, "idempotency_key": "key", "reason": "REFUND"},
            "e": {"request_id": "it's 100% \\ “odd”", "reason": "null"},
        }
        nothing: dict[str, Any] = dict.fromkeys(("parent_id", "approval_id", "request_id", "idempotency_key"))
        names: dict[str, str] = {}
        for number, (name, fields) in enumerate(differing.items()):
            is_about_1 = name in "bd"
            about = {
                "subjects": ("notes/1",) if is_about_1 else ("notes/2",),
                "on_behalf_of": ("human:x",) if is_about_1 else (),
            }
            started_at = START + timedelta(seconds=number)
            row = log_row(
                backend.tenant,
                **{**nothing, "outcome": "succeeded", **about, **fields},
                id=id_at(started_at),
                started_at=started_at,
            )
            names[row.id] = name
            await record_rows(backend, row)
        await record_rows(backend, log_row(backend.tenant, id=id_at(START - HOUR, 9), **nothing, reason=None))

        assert "".join([names[id] for id in await find_ids(backend, **query)]) == expected

    @pytest.mark.parametrize(
        ("reason", "text"),
        [
            ("Rückerstattung für Ünal & Söhne", "ÜNAL söhne RÜCKERSTATTUNG"),
            ("Straße", "STRASSE"),
            ("Ru\u0308ckgabe", "rückgabe"),
            ("возврат средств", "возврат".upper()),
            ("退款 4711", "退款"),
            ("\uff32\uff25\uff26\uff35\uff2e\uff24", "refund"),
            ("ticket_4711/a-b", "a b 4711 ticket"),
            ("“quoted” {braces}, \\slash", "quoted braces slash"),
            ("'; DROP TABLE ae_action_log; --", "drop table"),
            ("x" * 200, "x" * MAX_WORD_LENGTH),
            ("x" * MAX_WORD_LENGTH + "y", "x" * MAX_WORD_LENGTH + "z"),
        ],
    )
    @run_in_mode
    async def test_a_word_is_found_in_any_case_and_form(self, backend: Backend, reason: str, text: str) -> None:
        row = log_row(backend.tenant, reason=reason)
        await record_rows(backend, row, log_row(backend.tenant, reason="another"))

        assert await find_ids(backend, words=words_of(text)) == [row.id]

    @run_in_mode
    async def test_a_long_reason_is_found_by_its_first_words(self, backend: Backend) -> None:
        words = [f"word{number}" for number in range(MAX_WORDS + 1)]
        row = log_row(backend.tenant, reason=" ".join(words))
        await record_rows(backend, row)

        assert await find_ids(backend, words=(words[0], words[MAX_WORDS - 1])) == [row.id]
        assert await find_ids(backend, words=(words[MAX_WORDS],)) == []

    @pytest.mark.parametrize(
        "query",
        [
            {"words": ("refund", "rare")},
            {"words": ("refund", "common"), "outcome": "failed"},
            {"words": ("rare",), "subject": "notes/1", "request_id": "request"},
            {"request_id": "request", "outcome": "failed"},
        ],
    )
    @run_in_mode
    async def test_a_rare_filter_finds_its_rows_in_few_pages(self, backend: Backend, query: dict[str, Any]) -> None:
        rare = {"outcome": "failed", "reason": "a rare but common refund"}
        common = {"outcome": "succeeded", "reason": "a common refund"}
        rows = [
            log_row(backend.tenant, id=id_at(START, number), **(common if number % 600 else rare))
            for number in range(1, 2500)
        ]
        await record_rows(backend, *rows)

        ids, pages, before = [], 0, None
        async with backend.reading() as unit:
            while pages == 0 or before is not None:
                page = await unit.read_log(LogQuery(**query, limit=10, before=before))
                ids += [row.id for row in page]
                before, pages = page.next, pages + 1

        assert ids == [row.id for row in reversed(rows) if row.outcome == "failed"]
        assert pages == 1

    @pytest.mark.parametrize("query", [{"before": "no id"}, {"before": ""}, {"parent_id": "x" * 36}])
    @run_in_mode
    async def test_an_id_that_is_none_is_refused(self, backend: Backend, query: dict[str, Any]) -> None:
        async with backend.reading() as unit:
            with pytest.raises(ActionError) as refused:
                await unit.read_log(LogQuery(**query))

        assert refused.value.code is ErrorCode.INVALID_INPUT

    # Actions

    @run_in_mode
    async def test_the_log_is_searched_by_the_reason(self, harness: SampleHarness) -> None:
        for number, reason in enumerate(("Ticket 4711: lost parcel", "ticket 4712", None)):
            value_of(await harness.execute("notes.put", {"id": f"n{number}"}, actor=CLERK, reason=reason))

        async def found(text: str) -> list[str]:
            return [row.subjects[0] for row in await harness.log(text=text)]

        assert await found("TICKET") == ["notes/n0", "notes/n1"]
        assert await found("parcel, ticket!") == ["notes/n0"]
        assert await found("471") == []

    @pytest.mark.parametrize(
        "query",
        [
            {"text": ""},
            {"text": " \t"},
            {"text": "…!?"},
            {"text": "a\0b"},
            {"text": "x" * 501},
            {"text": " ".join(map(str, range(11)))},
            {"text": 7},
            {"parent_id": "no id"},
            {"before": "eyJ0YW1wZXJlZCI6MX0"},
            {"request_id": "a\0"},
            {"subject": "a\0"},
        ],
    )
    @run_in_mode
    async def test_a_search_that_cannot_be_answered_is_refused(
        self, harness: SampleHarness, query: dict[str, Any]
    ) -> None:
        error = error_of(await harness.execute("action_log.list", query, actor=SYSTEM), ErrorCode.INVALID_INPUT)

        (row,) = await harness.log(action="action_log.list")
        assert (row.outcome, len(error.message) < 500) == ("invalid", True)
