"""Module work as governed actions: the service `modules`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr
from returns.result import Failure, Result

from actionengine import (
    ActionError,
    Actor,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Storage,
    Tenant,
    create_engine,
)
from actionengine.boundary import (
    CODE_MODULE_DEFAULT,
    READ_ONLY,
    InProcessRunner,
    ModuleHandle,
    ModuleRoots,
    create_module_action,
    modules_service,
)
from actionengine.storage.sqlite.storage import SQLiteStorage

ROLES = {
    "reader": Role(allow=["modules.read"]),
    "editor": Role(allow=["modules.read", Rule("modules.write", "module/website")]),
    "builder": Role(allow=["modules.*", "action_log.read"]),
}


class Site:
    """Two tenants with a module `website` each, and an engine with the service."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.roots = ModuleRoots(folder / "modules")
        self.storage = storage
        self.acme = storage.create_tenant(slug="acme", name="Acme")
        self.rival = storage.create_tenant(slug="rival", name="Rival")
        for tenant in (self.acme, self.rival):
            root = self.roots.create(tenant, "website").root
            (root / "index.html").write_text(f"<h1>{tenant.slug}</h1>\n")
        self.engine: Engine = self.with_profile(CODE_MODULE_DEFAULT)

    def with_profile(self, profile: Any) -> Engine:
        service = modules_service(InProcessRunner(profile), self.roots.context)
        return create_engine(services=[service], storage=self.storage, authorizer=StaticAuthorizer(ROLES))

    def do(
        self, action: str, role: str, tenant: Tenant | None = None, key: str | None = None, **payload: Any
    ) -> Result[Any, ActionError]:
        context = RequestContext(tenant or self.acme, Actor.ai("bot", roles=[role]), idempotency_key=key)
        return self.engine.execute_action("modules", action, {"module_id": "website", **payload}, context)

    def text(self, tenant: Tenant, path: str = "index.html") -> str:
        return (self.roots.context(tenant, "website").root / path).read_text()

    def log(self, action: str) -> Any:
        context = RequestContext(self.acme, Actor.human("carla", roles=["builder"]))
        return self.engine.execute_action("action_log", "list", {"action": action}, context).unwrap().items


@pytest.fixture(params=["memory", "sqlite"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "memory":
        yield Site(tmp_path, InMemoryStorage())
        return
    with SQLiteStorage(tmp_path / "site.sqlite") as storage:
        yield Site(tmp_path, storage)


def code(answer: Result[Any, ActionError]) -> ErrorCode:
    assert isinstance(answer, Failure), answer
    error: ActionError = answer.failure()
    return error.code


def test_who_may_only_read_reads_and_changes_nothing(site: Site) -> None:
    assert site.do("read", "reader", path="index.html").unwrap()["text"] == "<h1>acme</h1>\n"
    for action, payload in (("write", {"path": "x", "text": "x"}), ("run", {"argv": ["true"]})):
        assert code(site.do(action, "reader", **payload)) is ErrorCode.FORBIDDEN
    assert not (site.roots.context(site.acme, "website").root / "x").exists()


def test_a_rule_names_the_one_module_that_may_be_changed(site: Site) -> None:
    site.roots.create(site.acme, "billing")

    assert site.do("write", "editor", path="a.txt", text="a").unwrap()["size"] == 1
    assert code(site.do("write", "editor", path="a.txt", text="a", module_id="billing")) is ErrorCode.FORBIDDEN


def test_bytes_come_through_as_they_are(site: Site) -> None:
    site.do("write", "builder", path="logo.png", base64="iVBORwD/").unwrap()

    assert site.do("read", "builder", path="logo.png").unwrap()["base64"] == "iVBORwD/"


def test_a_tenant_reaches_its_own_module_only(site: Site) -> None:
    site.do("write", "builder", site.rival, path="index.html", text="changed").unwrap()

    assert site.text(site.rival) == "changed"
    assert site.text(site.acme) == "<h1>acme</h1>\n"
    escape = site.do("read", "builder", path=f"../../{site.rival.id}/website/index.html")
    assert isinstance(escape, Failure)
    assert escape.failure().details["refusal"] == "path_escape"
    other = site.do("read", "builder", path="index.html", module_id=f"../{site.rival.id}/website")
    assert isinstance(other, Failure)
    assert other.failure().details["refusal"] == "missing_module"


def test_a_role_grants_nothing_that_the_profile_lacks(site: Site) -> None:
    site.engine = site.with_profile(READ_ONLY)

    refused = site.do("write", "builder", path="a.txt", text="a")

    assert isinstance(refused, Failure)
    assert refused.failure().details["refusal"] == "capability_not_granted"


def test_a_retry_with_its_key_runs_the_command_once(site: Site) -> None:
    command = ["sh", "-c", "echo line >> notes.txt"]

    answers = [site.do("run", "builder", key="k", argv=command).unwrap() for _ in range(3)]

    assert [answer["exit_code"] for answer in answers] == [0, 0, 0]
    assert site.text(site.acme, "notes.txt") == "line\n"


def test_a_retry_of_a_lost_action_does_not_repeat_its_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = site.engine._pipeline

    async def lost(execution: Any) -> None:
        raise RuntimeError("the process was killed here")

    monkeypatch.setattr(pipeline, "commit", lost)
    assert isinstance(site.do("run", "builder", key="k", argv=["sh", "-c", "echo line >> notes.txt"]), Failure)
    monkeypatch.undo()

    site.do("run", "builder", key="k", argv=["sh", "-c", "echo line >> notes.txt"]).unwrap()

    assert site.text(site.acme, "notes.txt") == "line\n"


def test_the_log_says_who_changed_what_and_not_all_that_was_read(site: Site) -> None:
    site.do("write", "builder", path="a.txt", text="hello").unwrap()
    site.do("read", "builder", path="a.txt").unwrap()

    (written,) = site.log("modules.write")
    assert (written.actor_type, written.actor_id) == ("ai", "bot")
    assert written.input["path"] == "a.txt"
    (read,) = site.log("modules.read")
    assert read.output["size"] == 5
    assert "text" not in read.output


def test_it_is_the_same_under_an_event_loop(site: Site) -> None:
    context = RequestContext(site.acme, Actor.human("carla", roles=["builder"]), idempotency_key="k")
    payload = {"module_id": "website", "argv": ["sh", "-c", "echo line >> notes.txt"]}

    async def twice() -> None:
        for _ in range(2):
            answer = await site.engine.execute_action_async("modules", "run", payload, context)
            assert answer.unwrap()["exit_code"] == 0
        if isinstance(site.storage, SQLiteStorage):
            await site.storage.aclose()

    asyncio.run(twice())

    assert site.text(site.acme, "notes.txt") == "line\n"


class DeployInput(BaseModel):
    """A secret text, and a text with an alias."""

    token: SecretStr
    to: str = Field(alias="where")


def _deploy(data: DeployInput, work: ModuleHandle) -> dict[str, Any]:
    work.write("deployed", f"{data.to}: {data.token.get_secret_value()}".encode())
    return {"to": data.to}


def test_a_secret_reaches_the_module_and_is_masked_in_the_log(site: Site) -> None:
    deploy = create_module_action(
        name="deploy", description="Deploy", validation=DeployInput, handler=_deploy, capabilities=("fs:write",)
    )
    runner = InProcessRunner(CODE_MODULE_DEFAULT, actions=[deploy])
    service = modules_service(runner, site.roots.context, actions=[deploy])
    site.engine = create_engine(services=[service], storage=site.storage, authorizer=StaticAuthorizer(ROLES))

    assert site.do("deploy", "builder", token="hush-hush", where="web-1").unwrap() == {"to": "web-1"}

    assert site.text(site.acme, "deployed") == "web-1: hush-hush"
    (entry,) = site.log("modules.deploy")
    assert entry.input == {"module_id": "website", "token": "**********", "where": "web-1"}


def test_variables_and_standard_input_of_a_command_are_masked(site: Site) -> None:
    given: dict[str, Any] = {"environment": {"TOKEN": "marker-environment"}, "stdin": "marker-stdin"}
    answer = site.do("run", "builder", argv=["sh", "-c", "cat; echo $TOKEN"], **given)

    assert answer.unwrap()["stdout"] == "marker-stdinmarker-environment\n"
    (row,) = site.log("modules.run")
    assert (row.input["environment"], row.input["stdin"]) == ("*" * 10, "*" * 10)
    assert "marker-" not in repr(row)
    assert all(b"marker-" not in stored.event.payload for stored in site.storage.read_events(site.acme))
