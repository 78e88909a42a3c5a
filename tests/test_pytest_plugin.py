"""`actionengine.testing.pytest_plugin` in the tests of a host, which have pytest and no Hypothesis."""

from __future__ import annotations

import pytest

CONFTEST = """
import sys

sys.modules["hypothesis"] = None  # importing it raises ModuleNotFoundError

import pytest

pytest_plugins = ["actionengine.testing.pytest_plugin"]


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

HOST = """
import pytest
from returns.result import Success

import actionengine as ae


def keep(data, ctx):
    ctx.records("notes").insert(data)
    return Success(str(ctx.actor))


async def keep_async(data, ctx):
    await ctx.async_records("notes").insert(data)
    return Success(str(ctx.actor))


handlers = {"keep": keep, "keep_async": keep_async}
notes = ae.create_service(
    name="notes",
    description="Notes",
    actions=[
        ae.create_action(name=name, description="Keep a note", handler=handler, permission="notes.keep")
        for name, handler in handlers.items()
    ],
)
MAY_KEEP = {"permissions": ["notes.keep"]}
"""

TESTS = """
import pytest
from host import MAY_KEEP, notes
from returns.result import Success

import actionengine as ae

pytestmark = pytest.mark.parametrize("storage_kind", ["memory", "sqlite"])


def test_people_and_agents(make_engine, person, agent, tenant):
    engine = make_engine(notes)
    assert engine.execute_action("notes", "keep", {}, person(**MAY_KEEP)) == Success("human:person")
    assert engine.execute_action("notes", "keep", {}, agent("bot-7", **MAY_KEEP)) == Success("ai:bot-7")
    assert engine.execute_action("notes", "keep", {}, agent()).failure().code == "forbidden"
    for_dave = agent("bot-7", **MAY_KEEP, on_behalf_of=person("dave").actor)
    assert "(for human:dave)" in engine.execute_action("notes", "keep", {}, for_dave).failure().message
    assert person().tenant == tenant
    assert (person(reason="asked").reason, person().source) == ("asked", "test")


def test_roles_and_options(make_engine, person):
    engine = make_engine(notes, authorizer=ae.StaticAuthorizer({"clerk": ae.Role(allow=["notes.*"])}))
    assert engine.execute_action("notes", "keep", {}, person("carla", roles=["clerk"])) == Success("human:carla")


def test_log_and_events(make_engine, person, agent, action_log, events):
    engine = make_engine(notes)
    engine.execute_action("notes", "keep", {}, agent())
    assert events() == []
    engine.execute_action("notes", "keep", {"id": 1}, person(**MAY_KEEP))
    assert [(entry.actor_id, entry.outcome) for entry in action_log()] == [("agent", "denied"), ("person", "succeeded")]
    assert [entry.input for entry in action_log(action="notes.keep", outcome="succeeded")] == [{"id": 1}]
    assert [(event.type, event.actor_id) for event in events()] == [("notes.keep", "person")]
    engine.execute_action("notes", "keep", {"id": 2}, person(**MAY_KEEP))
    assert len(events()) == len(events("notes.keep")) == 2
    assert events("notes.other") == []


def test_other_tenant(make_engine, person, action_log, events, storage):
    globex = storage.create_tenant(slug="globex", name="Globex")
    make_engine(notes).execute_action("notes", "keep", {}, person(tenant=globex, **MAY_KEEP))
    assert (events(), action_log()) == ([], [])
    assert len(events(tenant=globex)) == len(action_log(tenant=globex)) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2])
async def test_async(make_engine, person, action_log, events, number):
    engine = make_engine(notes)
    assert await engine.execute_action_async("notes", "keep_async", {}, person(**MAY_KEEP)) == Success("human:person")
    assert [entry.outcome for entry in action_log()] == ["succeeded"]
    assert [event.type for event in events()] == ["notes.keep_async"]
    assert await engine.execute_action_async("notes", "keep_async", {}, person(**MAY_KEEP)) == Success("human:person")
    assert len(events()) == 2
"""

OPTION = """
import sys

import actionengine as ae


def test_option(storage):
    assert isinstance(storage, ae.SQLiteStorage)
    assert "hypothesis" not in {name for name, module in sys.modules.items() if module is not None}
"""

OVERRIDE = """
import actionengine as ae
import pytest
from host import MAY_KEEP, notes


class OwnStorage(ae.InMemoryStorage):
    pass


@pytest.fixture
def storage():
    return OwnStorage()


def test_own_storage(make_engine, person, events, storage):
    assert isinstance(storage, OwnStorage)
    make_engine(notes).execute_action("notes", "keep", {}, person(**MAY_KEEP))
    (tenant,) = storage.list_tenants()
    assert len(storage.read_events(tenant)) == len(events()) == 1
"""


def test_fixtures_serve_a_host(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(host=HOST, test_notes=TESTS, test_option=OPTION, test_override=OVERRIDE)
    result = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "anyio", "--actionengine-storage", "sqlite")
    result.assert_outcomes(passed=14)


def test_storage_is_memory_or_sqlite(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "--actionengine-storage", "oracle")
    result.stderr.fnmatch_lines("*--actionengine-storage: invalid choice: 'oracle'*")
