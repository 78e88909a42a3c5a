"""The rules of all governed commands: who acts, for which tenants, in which form, and what is refused."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from examples.embedded_postgres import Database
from returns.result import Failure

from actionengine import ActionError, SQLiteStorage, Tenant, create_engine
from tests.cli.desk import Desk, ids_of, make_host
from tests.command_line import Run, run_command

LISTINGS = [
    ("log", "search"),
    ("approvals", "list"),
    ("runs", "list"),
    ("changes", "list"),
    ("relay", "dead-letters"),
]
# What the caller may not see is left out of a list of approvals.
REFUSED = pytest.mark.parametrize("listing", [each for each in LISTINGS if "approvals" not in each], ids=" ".join)
LISTING = pytest.mark.parametrize("listing", LISTINGS, ids=" ".join)


async def make_engine() -> None:
    """Return no engine, but a coroutine."""


@LISTING
def test_a_listing_is_one_execution_for_each_tenant(each_desk: Desk, listing: tuple[str, ...]) -> None:
    desk = each_desk
    document = desk.json(*listing, "--reason", "the night shift")

    assert document["next"] is None
    rows = [*desk.log(desk.acme), *desk.log(desk.globex)]
    assert [row.outcome for row in rows] == ["succeeded"] * 2
    assert {(row.actor_type, row.actor_id, row.reason) for row in rows} == {("human", "olga", "the night shift")}
    assert len({row.request_id for row in rows}) == 1
    desk.json(*listing, "--tenant", "acme")
    assert (len(desk.log(desk.acme)), len(desk.log(desk.globex))) == (2, 1)


@REFUSED
def test_an_operator_without_the_right_is_refused_for_each_tenant(desk: Desk, listing: tuple[str, ...]) -> None:
    done = desk.run(*listing, "--role", "auditor")

    assert done.returncode == 4
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["acme", "globex"]
    assert "without the role operator" in done.stderr
    assert [row.outcome for row in desk.log()] == ["denied"]


def test_a_tenant_that_denies_operators_is_named_and_the_others_are_shown(desk: Desk) -> None:
    id = desk.ask_for_refund()
    rules = {
        "name": "operator",
        "allow": [],
        "deny": [{"permission": "approvals.read"}, {"permission": "action_log.*"}],
    }
    desk.execute("roles.define", rules, tenant=desk.globex).unwrap()

    done = desk.run("log", "search", "--json", "--limit", "5")

    assert done.returncode == 4
    assert {each["tenant"] for each in json.loads(done.stdout)["items"]} == {"acme"}
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert (error["tenant"], error["error"]["code"]) == ("globex", "forbidden")
    assert desk.json("approvals", "show", id)["tenant"] == "acme"
    (theirs,) = desk.execute("action_log.list", {"action": "roles.define"}, tenant=desk.globex).unwrap().items
    (ours, *_) = desk.json("log", "search", "--tenant", "acme")["items"]
    assert desk.json("log", "show", ours["id"])["tenant"] == "acme"
    refused = desk.run("log", "show", theirs.id)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith("globex: ")


@pytest.mark.parametrize(
    ("name", "actor"),
    [("human:ada", ("human", "ada")), ("integration:pager", ("integration", "pager")), ("ai:bot", ("ai", "bot"))],
)
def test_the_actor_is_the_one_that_is_named(desk: Desk, name: str, actor: tuple[str, str]) -> None:
    assert desk.run("log", "search", "--tenant", "acme", "--as", name, "--role", "operator").returncode == 0

    (row,) = desk.log()
    assert (row.actor_type, row.actor_id) == actor


def test_the_default_actor_is_the_login_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "nina")
    monkeypatch.delenv("ACTIONENGINE_ACTOR", raising=False)

    assert run_command("log", "search", "--tenant", "acme", "--url", desk.url).returncode == 0
    (row,) = desk.log()
    assert row.actor_id == "nina"


@pytest.mark.parametrize("name", ["system:root", "workflow:w", "ada", ":ada", "human:", "robot:r", "human:\x00"])
def test_no_other_actor_acts_by_the_command_line(desk: Desk, name: str) -> None:
    done = desk.run("log", "search", "--as", name)

    assert (done.returncode, done.stdout) == (2, "")
    assert desk.log() == []


def test_an_ai_has_no_role_unless_it_is_given(desk: Desk) -> None:
    assert desk.run("log", "search", "--as", "ai:bot").returncode == 4
    assert desk.run("log", "search", "--as", "ai:bot", "--permission", "action_log.read").returncode == 0


def test_a_closed_tenant_is_not_found_and_not_among_all(desk: Desk) -> None:
    desk.ask_for_refund(tenant=desk.globex)
    assert desk.storage.delete_tenant(slug="globex")

    done = desk.run("approvals", "list", "--tenant", "globex")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "there is no tenant 'globex'\n")
    assert desk.json("approvals", "list")["items"] == []


def test_a_tenant_that_closes_during_the_command_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = desk.storage.list_tenants()
    desk.storage.delete_tenant(slug="acme")

    def pages(self: SQLiteStorage, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        return tenants if after is None else []

    monkeypatch.setattr(SQLiteStorage, "list_tenants", pages)

    done = desk.run("approvals", "list")

    assert done.returncode == 3
    assert done.stderr == "acme: the tenant has been deleted\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--tenant", "nobody"), 3, "there is no tenant 'nobody'"),
        (("--engine", "nowhere:engine"), 1, "cannot be imported"),
        (("--engine", "cli_host"), 2, "is not an Engine"),
        (("--engine", "json:dumps"), 1, ""),
        (("--engine", "json:__name__"), 2, "is not an Engine"),
        (("--engine", "tests.cli.desk:refund_async"), 1, ""),
        (("--engine", "tests.cli.test_governed:make_engine"), 2, "is not an Engine"),
        (("--as", "human: "), 2, "--as is an actor"),
        (("--url", "sqlite:///nothing.db"), 1, "there is no file"),
        (("--url", "postgresql://operator@127.0.0.1:1/shop"), 6, "out of reach"),
        (("--url", "sqlite:///host.db?mode=ro&uri=true"), 1, "without the option uri"),
        (("--url", "sqlite:///host.db", "--engine", "cli_host:engine"), 2, "leave out --url, or --engine"),
        (("--limit", "0"), 2, "--limit"),
    ],
)
def test_what_cannot_be_opened_is_told(desk: Desk, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = desk.run("approvals", "list", *arguments)

    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; sys.exit(0)", "the host's code ended the program: sys.exit(0)"),
        ("def engine(): raise SystemExit", "the host's code ended the program"),
        ("raise KeyError('SETTING')", "host_module:engine cannot be imported: KeyError: 'SETTING'"),
        ("def (", "host_module:engine cannot be imported: SyntaxError"),
    ],
)
def test_a_host_that_cannot_be_imported_is_a_failure(desk: Desk, source: str, words: str) -> None:
    Path("host_module.py").write_text(source)

    try:
        done = desk.run("approvals", "list", "--engine", "host_module:engine", "--json", ACTIONENGINE_URL="")
    finally:
        sys.modules.pop("host_module", None)

    assert (done.returncode, done.stdout) == (1, "")
    assert words in json.loads(done.stderr)["error"]["message"]


def test_a_command_needs_a_database_or_an_engine(desk: Desk) -> None:
    done = desk.run("approvals", "list", ACTIONENGINE_URL="")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--url" in done.stderr


def test_an_engine_is_an_object_or_made_by_a_function(desk: Desk) -> None:
    id = desk.ask_for_refund()
    engines = {
        "object": desk.engine,
        "function": lambda: make_host(desk.storage),
        "async": make_host(desk.storage, True),
    }

    for engine in engines.values():
        desk.serve(engine)
        environment = {"ACTIONENGINE_URL": "", "ACTIONENGINE_ENGINE": "cli_host:engine"}
        assert desk.json("approvals", "list", **environment)["items"][0]["id"] == id
        assert desk.json("budgets", "usage", "--tenant", "acme", **environment)["items"][0]["limit"] == 5


def test_an_address_on_the_command_line_goes_before_an_engine_in_the_environment(desk: Desk) -> None:
    desk.serve(create_engine(services=[]))
    desk.ask_for_refund()

    document = desk.json("approvals", "list", "--url", desk.url, ACTIONENGINE_ENGINE="cli_host:engine")

    assert len(document["items"]) == 1


@LISTING
def test_a_role_past_row_level_security_is_refused(
    run: Run, postgres_database: Database, listing: tuple[str, ...]
) -> None:
    done = run(*listing, "--url", postgres_database.owner_url)

    assert done.returncode == 4
    assert "actionengine db upgrade --operator-role operator" in done.stderr


def test_budgets_are_those_of_the_host(desk: Desk) -> None:
    desk.execute("payments.book", {"job": "J-1"}).unwrap()

    assert desk.run("budgets", "usage").returncode == 2
    usage = desk.run("budgets", "usage", "--of", "human:ada", "--engine", "cli_host:engine", ACTIONENGINE_URL="").stdout
    assert usage.startswith("bookings  1 of 5 executions  acme\n  limits payments.book, each actor\n")
    assert "bookings  0 of 5 executions  globex\n" in usage


def test_a_storage_that_is_out_of_reach_ends_the_command(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "actionengine.cli.operator.Operator.execute",
        lambda *arguments: Failure(ActionError("unavailable", "the storage is unavailable: retry later")),
    )

    done = desk.run("approvals", "list")

    assert (done.returncode, done.stderr) == (6, "acme: the storage is unavailable: retry later\n")


def test_an_operators_role_is_bound_by_row_level_security(postgres_desk: Desk) -> None:
    desk = postgres_desk
    desk.ask_for_refund()

    assert desk.json("relay", "status")["backlog"]["approvals"] == 1
    assert {each["slug"] for each in desk.json("tenant", "list")["items"]} == {"acme", "globex"}
    with psycopg.connect(desk.url) as connection:
        for table in ("ae_action_log", "ae_documents", "ae_events"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_approvals_are_seen_by_operators_and_not_by_others(desk: Desk) -> None:
    id = desk.ask_for_refund()

    seen = {role: ids_of(desk.json("approvals", "list", "--role", role)) for role in ("operator", "auditor")}
    assert seen == {"operator": [id], "auditor": []}
    assert desk.run("approvals", "show", id, "--role", "auditor").returncode == 3
    assert ids_of(desk.json("approvals", "list", "--role", "auditor", "--permission", "payments.approve")) == [id]


@pytest.mark.parametrize("listing", [("log", "search"), ("approvals", "list")], ids=" ".join)
def test_a_cursor_of_another_kind_lists_nothing_of_others(desk: Desk, listing: tuple[str, ...]) -> None:
    desk.ask_for_refund(tenant=desk.globex)

    option = "--before" if listing[0] == "log" else "--after"
    for cursor in ("zzz", "00000000-0000-0000-0000-000000000000", "\x1b[2J"):
        done = desk.run(*listing, "--tenant", "acme", option, cursor, "--json")
        assert done.returncode in (0, 2), done.stderr
        if done.returncode == 0:
            assert {each["tenant"] for each in json.loads(done.stdout)["items"]} <= {"acme"}


def test_an_interrupt_has_an_exit_code_of_its_own(desk: Desk) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    desk.serve(interrupted)

    assert desk.run("approvals", "list", "--engine", "cli_host:engine", ACTIONENGINE_URL="").returncode == 130


def test_roles_are_read_from_the_environment(desk: Desk) -> None:
    command = ("log", "search", "--tenant", "acme")

    assert desk.run(*command, ACTIONENGINE_ROLES="auditor").returncode == 4
    assert desk.run(*command, ACTIONENGINE_ROLES="auditor operator").returncode == 0
    assert desk.run(*command, "--role", "operator", ACTIONENGINE_ROLES="auditor").returncode == 0
