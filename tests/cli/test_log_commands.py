"""`actionengine log ...`, as an operator uses it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from actionengine.builtin.cause_tree import CauseNode, LogTree
from actionengine.cli.tree import write_tree
from tests.cli.desk import ADA, Desk, golden, ids_of, is_readable

HOST = ("--engine", "cli_host:engine", "--permission", "payments.approve")


def book(desk: Desk, job: str, **options: Any) -> str:
    """Book a job. Return the id of its execution."""
    desk.execute("payments.book", {"job": job}, **options).unwrap()
    page = desk.execute("action_log.list", {"action": "payments.book", "limit": 1}, ADA, options.get("tenant")).unwrap()
    return str(page.items[0].id)


def test_executions_of_all_tenants_are_found_newest_first(each_desk: Desk) -> None:
    desk = each_desk
    first = book(desk, "J-1", reason="Duplicate charge, says the customer", request_id="r-1", idempotency_key="k-1")
    second = book(desk, "J-2", reason="a charge that is DUPLICATE", tenant=desk.globex)
    third = book(desk, "J-3", reason="a duplicate")

    def found(*options: str) -> Any:
        return ids_of(desk.json("log", "search", "--action", "payments.book", *options))

    assert found() == [third, second, first]
    assert found("--text", "charge duplicate") == [second, first]
    assert found("--tenant", "acme") == [third, first]
    assert found("--request", "r-1") == found("--key", "k-1") == found("--subject", "jobs/J-1") == [first]
    assert found("--by", "human:ada", "--limit", "2") == [third, second]
    assert found("--before", second) == [first]
    assert found("--by", "human:bob") == found("--outcome", "failed") == found("--parent", first) == []
    assert found("--since", "1h") == found("--since", "2026-01-31T12:00+02:00") == [third, second, first]
    assert found("--until", "2026-01-31") == []
    shown = desk.run("log", "search", "--action", "payments.book", "--limit", "1")
    assert shown.stderr == f"more: --before {third}\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "yesterday"),
        ("--until", "2999-01-01"),
        ("--by", "ada"),
        ("--by", "robot:r"),
        ("--outcome", "lost"),
        ("--before", "x" * 300),
        ("--text", "!?"),
        ("--principal", "carla"),
    ],
)
def test_a_filter_that_makes_no_sense_is_a_usage_error(desk: Desk, options: tuple[str, ...]) -> None:
    done = desk.run("log", "search", "--tenant", "acme", *options)

    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("columns", [60, 80])
def test_a_search_is_readable(desk: Desk, columns: int) -> None:
    reason = "the customer\x1b]0;x\x07 waited\r\nfor hours\u202e and then some more: " + "9" * 90
    desk.execute("payments.book", {"job": "J-1"}, reason=reason).unwrap()
    desk.ask_for_refund()

    shown = desk.run("log", "search", "--tenant", "acme", COLUMNS=str(columns)).stdout

    assert is_readable(shown, columns)
    if columns == 80:
        assert golden(shown) == (
            "2026-01-31T12:00:00Z  payments.refund  approval_required  acme\n"
            "  id 00000000-0000-0000-0000-000000000000\n"
            "  by ai:bot via http\n"
            "  error: approval_required: payments.refund needs an approval by an actor with\n"
            "  the permission payments.approve\n"
            "\n"
            "2026-01-31T12:00:00Z  payments.book  succeeded  acme\n"
            "  id 00000000-0000-0000-0000-000000000000\n"
            "  by human:ada via http\n"
            "  about jobs/J-1\n"
            "  reason: the customer\\x1b]0;x\\x07 waited\\r\\nfor hours\\u202e and then some more:\n"
            "  999999999999999999999999999999999999999999999999999999999999999999999999999999\n"
            "  999999999999\n"
        )


def test_an_execution_is_shown_with_its_input(each_desk: Desk) -> None:
    id = book(each_desk, "J-1", reason="as agreed")

    shown = each_desk.run("log", "show", id).stdout
    document = each_desk.json("log", "show", id, "--tenant", "acme")

    assert is_readable(shown)
    assert '  input: {"job": "J-1"}\n' in shown
    assert (document["tenant"], document["id"], document["reason"]) == ("acme", id, "as agreed")
    missing = each_desk.run("log", "show", id, "--tenant", "globex")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.startswith("globex: ")


def test_the_tree_of_causes_is_drawn(desk: Desk) -> None:
    approval = desk.ask_for_refund(reason="the boiler \x1b[2Jbroke")
    done = desk.run("approvals", "approve", approval, "--tenant", "acme", *HOST, ACTIONENGINE_URL="")
    assert done.returncode == 0, done.stderr

    shown = desk.run("log", "tree", approval, "--of", "approval").stdout

    assert is_readable(shown)
    assert golden(shown) == TREE
    assert is_readable(desk.run("log", "tree", approval, "--of", "approval", COLUMNS="60").stdout, 60)
    document = desk.json("log", "tree", approval, "--of", "approval")
    assert (document["tenant"], document["id"], document["truncated"]) == ("acme", approval, [])
    assert desk.run("log", "tree", approval, "--of", "approval", "--tenant", "globex").returncode == 3


TREE = """\
tenant acme
payments.refund  approval_required
│  00000000-0000-0000-0000-000000000000
│  by ai:bot at 2026-01-31T12:00:00Z
│  reason: the boiler \\x1b[2Jbroke
│  error: approval_required: payments.refund needs an approval by an actor with
│  the permission payments.approve
└─ approval payments.refund  approved  <- this one
   │  00000000-0000-0000-0000-000000000000
   │  by ai:bot at 2026-01-31T12:00:00Z
   │  decided by human:olga
   └─ approvals.approve  succeeded
      │  00000000-0000-0000-0000-000000000000
      │  by human:olga at 2026-01-31T12:00:00Z
      ├─ payments.refund  succeeded
      │  │  00000000-0000-0000-0000-000000000000
      │  │  by ai:bot at 2026-01-31T12:00:00Z
      │  │  reason: the boiler \\x1b[2Jbroke
      │  └─ event payments.refunded  payments/1
      │        00000000-0000-0000-0000-000000000000
      │        by ai:bot at 2026-01-31T12:00:00Z
      └─ event approvals.approve  approval/00000000-0000-0000-0000-000000000000
            00000000-0000-0000-0000-000000000000
            by human:olga at 2026-01-31T12:00:00Z
"""


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_deep_tree_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ids = [str(UUID(int=number)) for number in range(30)]
    fields: dict[str, Any] = {"kind": "execution", "title": "jobs.book", "status": "succeeded", "is_complete": True}
    nodes = tuple(
        CauseNode(id=id, parent=ids[depth - 1] if depth else None, depth=depth, at=None, actor="human:ada", **fields)
        for depth, id in enumerate(ids)
    )

    write_tree("acme", LogTree(id=ids[3], root=ids[0], nodes=nodes, truncated=("effects of execution 1",)))

    shown = capsys.readouterr().out
    assert is_readable(shown, columns)
    assert all(id in shown for id in ids)
    assert shown.count("<- this one") == 1
    assert "left out: effects of execution 1" in shown


def test_a_long_title_in_a_tree_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    titles = ["payments.refund", f"{'a' * 30}  {'b' * 40}", "jobs.book"]
    fields: dict[str, Any] = {"kind": "execution", "status": None, "is_complete": True, "at": None, "actor": None}
    nodes = tuple(
        CauseNode(id=str(depth), parent=str(depth - 1) if depth else None, depth=depth, title=title, **fields)
        for depth, title in enumerate(titles)
    )

    write_tree("acme", LogTree(id="0", root="0", nodes=nodes, truncated=()))

    shown = capsys.readouterr().out
    assert is_readable(shown, 60)
    assert ("a" * 30 in shown, "b" * 40 in shown) == (True, True)
