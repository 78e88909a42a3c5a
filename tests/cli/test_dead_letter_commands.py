"""`actionengine relay status|dead-letters|redrive|skip`, as an operator uses it."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from actionengine import CallbackPublisher, Event, Relay
from tests.cli.desk import Desk, golden, ids_of, is_readable


def test_dead_letters_of_all_tenants_are_listed(each_desk: Desk) -> None:
    desk = each_desk
    first = desk.bury("J-1")
    second = desk.bury("J-2", tenant=desk.globex)
    third = desk.bury("J-3")

    assert ids_of(desk.json("relay", "dead-letters")) == [first, second, third]
    assert ids_of(desk.json("relay", "dead", "--tenant", "acme")) == [first, third]
    document = desk.json("relay", "dead-letters", "--limit", "2")
    assert (ids_of(document), document["next"]) == ([first, second], second)
    assert ids_of(desk.json("relay", "dead-letters", "--after", second)) == [third]
    assert [each["tenant"] for each in document["items"]] == ["acme", "globex"]
    assert ids_of(desk.json("relay", "dead-letters", "--queue", "workflows")) == []


@pytest.mark.parametrize("columns", [60, 80])
def test_a_dead_letter_is_readable(desk: Desk, columns: int) -> None:
    id = desk.bury("J-1", "the partner\x1b[2J does\nnot know\u202e this job, and so it refuses the event with 404")

    shown = desk.run("relay", "dead-letters", COLUMNS=str(columns)).stdout

    assert is_readable(shown, columns)
    assert f"  id {id}\n" in shown
    if columns == 80:
        assert golden(shown) == (
            "2026-01-31T12:00:00Z  jobs.booked  jobs/J-1  acme\n"
            "  id 00000000-0000-0000-0000-000000000000\n"
            "  queue events, given up 1 s ago after 1 attempt\n"
            "  reason: the partner\\x1b[2J does\\nnot know\\u202e this job, and so it refuses\n"
            "  the event with 404\n"
        )


def test_redriving_is_on_the_log_of_the_tenant(each_desk: Desk) -> None:
    desk = each_desk
    id = desk.bury("J-1")

    done = desk.run("relay", "redrive", id, "--tenant", "acme", "--reason", "the partner knows it now")

    assert (done.returncode, done.stdout) == (0, "1 dead letter will be delivered again\n"), done.stderr
    (row,) = desk.log(action="relay.redrive")
    assert (row.actor_id, row.reason, row.subjects) == ("olga", "the partner knows it now", (f"events/{id}",))
    assert desk.log(desk.globex) == []
    delivered: list[Event] = []
    Relay(desk.storage, CallbackPublisher(delivered.append), queues=["events"]).drain()
    assert id in {event.id for event in delivered}
    again = desk.run("relay", "redrive", id, "--tenant", "acme")
    assert (again.returncode, again.stdout) == (3, "")


def test_all_dead_letters_of_all_tenants_are_redriven(desk: Desk) -> None:
    ids = {desk.bury("J-1"), desk.bury("J-2", tenant=desk.globex), desk.bury("J-3")}

    document = desk.json("relay", "redrive", "--all")

    assert {id for each in document["items"] for id in each["ids"]} == ids
    assert desk.json("relay", "dead-letters")["items"] == []
    assert len(desk.log(desk.acme, action="relay.redrive")) == len(desk.log(desk.globex, action="relay.redrive")) == 1
    assert desk.run("relay", "redrive", "--all").stdout == "0 dead letters will be delivered again\n"


def test_skipping_needs_a_reason_and_a_tenant(desk: Desk) -> None:
    id = desk.bury("J-1")

    assert desk.run("relay", "skip", id, "--tenant", "acme").returncode == 2
    assert desk.run("relay", "skip", id, "--reason", "it is old").returncode == 2
    others = desk.run("relay", "skip", id, "--reason", "it is old", "--tenant", "globex")
    assert (others.returncode, others.stdout) == (3, "")
    by_ai = desk.run(
        *("relay", "skip", id, "--reason", "old", "--tenant", "acme"), *("--as", "ai:bot", "--role", "operator")
    )
    assert by_ai.returncode == 4
    skipped = desk.run("relay", "skip", id, "--reason", "it is old", "--tenant", "acme")
    assert skipped.stdout == "1 dead letter skipped\n"
    assert "skipped: it is old" in desk.run("relay", "dead-letters").stdout
    (row,) = [each for each in desk.log(action="relay.skip") if each.outcome == "succeeded"]
    assert (row.actor_id, row.input["reason"]) == ("olga", "it is old")


def test_ids_that_are_no_dead_letters_are_named(desk: Desk) -> None:
    id, other = desk.bury("J-1"), str(uuid4())

    done = desk.run("relay", "redrive", id, other, "--tenant", "acme", "--json")

    assert done.returncode == 3
    (changed,) = json.loads(done.stdout)["items"]
    assert (changed["ids"], changed["missing"]) == ([id], [other])
    assert other in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize("columns", [60, 80])
def test_the_status_is_readable(desk: Desk, columns: int) -> None:
    desk.bury("J-1")
    desk.ask_for_refund()

    shown = desk.run("relay", "status", COLUMNS=str(columns)).stdout

    assert is_readable(shown, columns)
    assert "…" not in shown
    document = desk.json("relay", "status")
    assert [each["queue"] for each in document["queues"]] == ["events", "workflows", "triggers"]
    assert document["queues"][0]["dead"] == 1
    assert document["backlog"]["approvals"] == 1
