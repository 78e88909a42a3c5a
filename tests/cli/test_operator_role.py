"""The role of operators: in code, in the database, and in the documentation of exit codes."""

from __future__ import annotations

import re
from pathlib import Path

from examples.embedded_postgres import Database, make_role
from psycopg import connect
from sqlalchemy import make_url

from actionengine import ErrorCode, InMemoryStorage, StaticAuthorizer, create_engine, operator_role
from actionengine.changes import change_control_services
from actionengine.cli.errors import ExitCode, exit_code
from actionengine.context import Actor, RequestContext
from actionengine.errors import ActionError
from actionengine.workflows import workflow_services
from tests.command_line import Run

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_an_operator_may_do_what_the_commands_do_and_approves_nothing() -> None:
    authorizer = StaticAuthorizer({"operator": operator_role()})
    services = [*workflow_services(), *change_control_services()]
    engine = create_engine(services=services, storage=InMemoryStorage(), authorizer=authorizer)
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    context = RequestContext(tenant, Actor.human("olga", roles=["operator"]))

    allowed = {each.name for each in engine.catalogue(context).unwrap()}

    assert {"action_log.list", "action_log.get", "action_log.tree", "relay.redrive", "relay.skip"} <= allowed
    assert {"workflows.resume", "workflows.cancel", "changes.preview", "approvals.list"} <= allowed
    assert not allowed & {"workflows.define", "workflows.start", "changes.merge", "changes.create", "roles.define"}


def test_the_page_has_the_exit_code_of_each_error() -> None:
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    on_page = {code: int(number) for number, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    of_errors = {str(code): int(exit_code(ActionError(code, "no"))) for code in ErrorCode}

    assert {int(number) for number, _ in rows} == set(map(int, ExitCode))
    assert {code: number for code, number in of_errors.items() if number != ExitCode.FAILED} == {
        code: number for code, number in on_page.items() if code != "usage"
    }


def test_the_operators_role_is_granted_by_an_upgrade(
    run: Run, fresh_postgres_database: Database, postgres_server: str
) -> None:
    owner = fresh_postgres_database.owner_url
    with connect(postgres_server, autocommit=True) as connection:
        make_role(connection, "night_shift")
    url = make_url(owner).set(username="night_shift").render_as_string(hide_password=False)

    before = run("log", "search", "--url", url)
    assert (before.returncode, "has no grants" in before.stderr) == (1, True)
    done = run("db", "upgrade", "--url", owner, "--app-role", "app", "--operator-role", "night_shift")
    assert done.stdout.splitlines()[1:] == ["the role app has its grants", "the role night_shift has its grants"]
    run("tenant", "create", "acme", "--name", "Acme", "--url", url)
    for command in (("log", "search"), ("relay", "dead"), ("relay", "status"), ("runs", "list"), ("tenant", "list")):
        assert run(*command, "--url", url, "--json").returncode == 0

    key = run("db", "sign", "--url", owner).stdout.rpartition("=")[2].strip()
    assert "pass the signing_key" in run("log", "search", "--url", url).stderr
    assert run("log", "search", "--url", url, "--signing-key", key).returncode == 0
    assert (
        "GRANT EXECUTE ON FUNCTION public.ae_outbox_take"
        in run("db", "upgrade", "--sql", "--url", owner, "--operator-role", "night_shift").stdout
    )
