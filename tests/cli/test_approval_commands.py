"""`actionengine approvals ...`, as an operator uses it."""

from __future__ import annotations

import json

import pytest

from actionengine import PreviewedEvent, Write
from actionengine.cli.approvals import write_effects
from tests.cli.desk import Desk, golden, ids_of, is_readable, make_host

APPROVER = ("--permission", "payments.approve")
HOST = ("--engine", "cli_host:engine")


def test_approvals_of_all_tenants_are_listed_newest_first(each_desk: Desk) -> None:
    desk = each_desk
    first, second = desk.ask_for_refund(1), desk.ask_for_refund(2, desk.globex)
    third = desk.ask_for_refund(3)

    assert ids_of(desk.json("approvals", "list")) == [third, second, first]
    assert ids_of(desk.json("approvals", "list", "--tenant", "acme")) == [third, first]
    document = desk.json("approvals", "list", "--limit", "2")
    assert ids_of(document) == [third, second]
    assert ids_of(desk.json("approvals", "list", "--after", document["next"])) == [first]
    assert {each["tenant"] for each in document["items"]} == {"acme", "globex"}


def test_list_is_readable(desk: Desk) -> None:
    desk.ask_for_refund(reason="the customer waited for three hours, and the plumber came without a wrench")

    shown = desk.run("approvals", "list", "--tenant", "acme").stdout

    assert golden(shown) == (
        "2026-01-31T12:00:00Z  payments.refund  pending  acme\n"
        "  id 00000000-0000-0000-0000-000000000000\n"
        "  asked by ai:bot, 1 s ago\n"
        "  reason: the customer waited for three hours, and the plumber came without a\n"
        "  wrench\n"
        "  needs payments.approve; expires in 6 d\n"
    )


def test_show_has_the_writes_that_approving_makes(desk: Desk) -> None:
    id = desk.ask_for_refund(7)

    shown = desk.run("approvals", "show", id, *HOST, *APPROVER, ACTIONENGINE_URL="")

    assert "approving writes:" in shown.stdout
    assert "insert refunds" in shown.stdout
    assert '+ {"amount": 7}' in shown.stdout
    assert "event payments.refunded payments/1" in shown.stdout
    assert is_readable(shown.stdout)
    without = desk.run("approvals", "show", id)
    assert "need the host's engine" in without.stdout
    refused = desk.run("approvals", "show", id, *HOST, ACTIONENGINE_URL="")
    assert "the writes are not shown" in refused.stdout
    document = desk.json("approvals", "show", id, *HOST, *APPROVER, ACTIONENGINE_URL="")
    assert [(each["target"], each["before"], each["after"]) for each in document["writes"]] == [
        ("refunds", None, {"amount": 7})
    ]
    assert [each["type"] for each in document["events"]] == ["payments.refunded"]


@pytest.mark.parametrize("is_async", [False, True])
def test_approving_executes_the_original_action_once(each_desk: Desk, is_async: bool) -> None:
    desk = each_desk
    desk.serve(make_host(desk.storage, is_async))
    id = desk.ask_for_refund(7)
    command = ("approvals", "approve", id, "--tenant", "acme", *HOST, *APPROVER)

    done = desk.run(*command, "--reason", "it was our fault", ACTIONENGINE_URL="")

    assert done.returncode == 0, done.stderr
    assert done.stdout == 'approved payments.refund, as human:olga\nthe result:\n  {"refunded": 7}\n'
    again = desk.run(*command, ACTIONENGINE_URL="")
    assert (again.returncode, again.stdout) == (5, "")
    assert f"the approval {id} is approved by human:olga" in again.stderr
    state = desk.json("approvals", "show", id)
    assert (state["decided_by"], state["comment"]) == ("human:olga", "it was our fault")
    (entry,) = [each for each in desk.log(action="approvals.approve") if each.outcome == "succeeded"]
    assert (entry.actor_id, entry.source, entry.reason) == ("olga", "cli", "it was our fault")


def test_approving_needs_the_hosts_engine(desk: Desk) -> None:
    id = desk.ask_for_refund()

    done = desk.run("approvals", "approve", id, "--tenant", "acme", *APPROVER)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--engine module:attribute" in done.stderr


def test_an_operator_is_no_approver_and_an_ai_never_is(desk: Desk) -> None:
    id = desk.ask_for_refund()
    command = ("approvals", "reject", id, "--tenant", "acme")

    assert desk.run(*command).returncode == 4
    by_ai = desk.run(*command, "--as", "ai:bot2", *APPROVER)
    assert (by_ai.returncode, by_ai.stdout) == (4, "")
    by_requester = desk.run(*command, "--as", "human:bot", *APPROVER)
    assert (by_requester.returncode, by_requester.stdout) == (4, "")
    assert desk.json("approvals", "show", id)["status"] == "pending"


def test_rejecting_twice_is_a_conflict(desk: Desk) -> None:
    id = desk.ask_for_refund()
    command = ("approvals", "reject", id, "--tenant", "acme", *APPROVER, "--reason", "not this month")

    assert desk.run(*command).stdout == "rejected payments.refund, as human:olga\n"
    again = desk.run(*command, "--json")
    assert again.returncode == 5
    assert json.loads(again.stderr)["error"]["code"] == "conflict"
    assert ids_of(desk.json("approvals", "list")) == []
    assert ids_of(desk.json("approvals", "list", "--status", "any")) == [id]


def test_a_decision_names_its_tenant(desk: Desk) -> None:
    id = desk.ask_for_refund()

    unnamed = desk.run("approvals", "reject", id, *APPROVER)
    assert unnamed.returncode == 2
    assert "--tenant SLUG" in unnamed.stderr
    others = desk.run("approvals", "reject", id, *APPROVER, "--tenant", "globex")
    assert (others.returncode, others.stderr) == (3, f"globex: there is no approval '{id}'\n")
    assert desk.json("approvals", "show", id)["tenant"] == "acme"


def test_a_terminal_asks_and_shows_the_writes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    id = desk.ask_for_refund()
    command = ("approvals", "approve", id, "--tenant", "acme", *HOST, *APPROVER)
    monkeypatch.setattr("actionengine.cli.approvals.is_terminal", lambda: True)

    refused = desk.run(*command, ACTIONENGINE_URL="")
    assert refused.returncode == 1
    assert "insert refunds" in refused.stdout
    assert desk.json("approvals", "show", id)["status"] == "pending"
    monkeypatch.setattr("typer.confirm", lambda *arguments, **options: True)
    approved = desk.run(*command, ACTIONENGINE_URL="")
    assert approved.returncode == 0, approved.stderr
    assert "approved payments.refund" in approved.stdout


def test_an_update_is_shown_by_its_changed_fields(capsys: pytest.CaptureFixture[str]) -> None:
    update = Write("update", "orders", "O-1", {"amount": 5, "refunded": 0}, {"amount": 5, "refunded": 2, "by": "a\x1b"})
    statement = Write("statement", "orders", None, statement="DELETE FROM orders", parameters={"n": 1})

    write_effects([update, statement], [PreviewedEvent("orders.refunded", None, {"n": 1})], 3)

    assert capsys.readouterr().out == (
        "  update orders O-1\n"
        "    refunded: 0 -> 2\n"
        '    by: null -> "a\\u001b"\n'
        "  statement orders\n"
        "    DELETE FROM orders\n"
        '    with {"n": 1}\n'
        "  event orders.refunded\n"
        '    {"n": 1}\n'
        "  and 3 more\n"
    )


def test_an_empty_listing_names_its_status(desk: Desk) -> None:
    assert desk.run("approvals", "list", "--status", "rejected").stdout == "no approval is rejected\n"
    assert desk.run("approvals", "list", "--status", "any").stdout == "there are no approvals\n"
