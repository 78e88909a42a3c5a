"""The pages of the log, the catalogue and lists, over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any, get_args
from urllib.parse import quote

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    InMemoryStorage,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.builtin.action_log import GetExecution
from actionengine.console import create_console
from actionengine.console.pages.catalogue import fields_of, type_in_words
from actionengine.console.pages.paging import next_after
from actionengine.console.pages.runs import STATUSES
from actionengine.workflows.models import RunStatus
from tests.console.site import Caller, Site, query_of
from tests.console.till import Till

LOG = "/log?action=work.do"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """An engine with 120 executions, each hundredth of another actor."""
    storage = InMemoryStorage()
    acme = storage.create_tenant(slug="acme", name="Acme")
    do = create_action(name="do", description="Do it", handler=lambda data: data["done"], permission="work.do")
    engine = create_engine(services=[create_service(name="work", description="", actions=[do])], storage=storage)
    for number in range(120):
        actor = Actor.human("bob" if number % 100 == 0 else "ann")
        context = RequestContext(acme, actor, reason=f"number {number}", request_id=f"r-{number}")
        engine.execute_action("work", "do", {"number": number}, context)
    actors = {
        "reader": Actor.human("reader", permissions=["action_log.read"]),
        "clerk": Actor.human("clerk", permissions=["work.do"]),
    }
    with Site(engine, actors) as site:
        yield site


@pytest.fixture
def reader(site: Site) -> Caller:
    return site.caller("reader")


def rows(text: str) -> int:
    return text.count('<th scope="row"')


def test_a_long_log_is_read_page_by_page(reader: Caller) -> None:
    counts, url = [], f"/t/acme/console{LOG}"
    while url:
        page = reader.open(url)
        counts.append(rows(page.text))
        url = next((link for link in page.tags.links if "before=" in link and link != url), "")
        if page.text.count('rel="next"') == 0:
            break
    assert counts == [50, 50, 20]


def test_each_filter_is_in_the_address_and_in_the_form(reader: Caller) -> None:
    query = "text=number+7&actor_type=human&actor_id=ann&outcome=denied&request_id=r-7&since=2020-01-01T00:00"
    page = reader.get(f"/log?{query}&subject=&until=")
    (form,) = [form for form in page.tags.forms if form.method == "get"]

    assert rows(page.text) == 1
    assert "<details open>" in page.text
    assert {name: form.values[name] for name in ("text", "actor_id", "request_id", "since")} == {
        "text": "number 7",
        "actor_id": "ann",
        "request_id": "r-7",
        "since": "2020-01-01T00:00",
    }
    permalink = next(link for link in page.tags.links if "since=" in link)
    assert query_of(permalink).keys() == {"text", "actor_type", "actor_id", "outcome", "request_id", "since"}
    assert rows(reader.open(permalink).text) == 1


@pytest.mark.parametrize(
    "query",
    [
        *("since=yesterday", "outcome=nice", "actor_type=robot", "principal=carla", "text=%00"),
        *("until=2020-13-45T00:00", "text=!!!", f"request_id={'x' * 5000}", "parent_id=%22%27"),
    ],
)
def test_a_filter_that_is_not_valid_is_explained(reader: Caller, query: str) -> None:
    page = reader.get(f"/log?action=work.do&{query}")

    assert page.status in (200, 400)
    if page.status == 400:
        assert "The input is not valid" in page.tags.text
    (form,) = [form for form in page.tags.forms if form.method == "get"]
    assert form.values["action"] == "work.do"


@pytest.mark.parametrize("cursor", ["tampered", "%F0%9F%92%A9", "%00", "x" * 5000, "01a22e36"])
def test_a_tampered_cursor_gets_a_page(reader: Caller, cursor: str) -> None:
    assert reader.get(f"{LOG}&before={cursor}").status == 400


def test_times_without_an_offset_are_utc(reader: Caller) -> None:
    assert rows(reader.get(f"{LOG}&since=2999-01-01T00:00").text) == 0
    assert rows(reader.get(f"{LOG}&until=2999-01-01T00:00").text) == 50
    assert rows(reader.get(f"{LOG}&until=2999-01-01T00:00:00%2B02:00").text) == 50


def test_an_execution_shows_its_tree(reader: Caller) -> None:
    page = reader.open(next(link for link in reader.get(f"{LOG}&text=7").tags.links if "/log/0" in link))

    assert page.tags.heading == "work.do"
    assert 'aria-current="true"' in page.text
    assert "needs the permission work.do" in page.tags.text


@pytest.mark.parametrize("id", ["none", "01a22e36-309d-71f4-a7dc-6601c5aff8fd", "%00", "x" * 3000, "..%2F..", "'"])
def test_an_execution_that_is_not_there_gets_a_page(reader: Caller, id: str) -> None:
    assert reader.get(f"/log/{id}").status in (400, 404)


def test_the_log_needs_its_permission(site: Site) -> None:
    clerk = site.caller("clerk")
    for path in ("/log", "/log/none"):
        page = clerk.get(path)
        assert page.status == 403
        assert page.tags.text.count("action_log.read") == 1
    assert not any("/log" in link for link in clerk.get("/").tags.links)


def test_the_catalogue_is_that_of_its_caller(site: Site, reader: Caller) -> None:
    clerk = site.caller("clerk")

    assert "work.do" in clerk.get("/catalogue").tags.text
    assert clerk.get("/catalogue/work/do").status == 200
    assert "work.do" not in reader.get("/catalogue").tags.text
    refused = reader.get("/catalogue/work/do")
    assert (refused.status, "work.do" in refused.tags.text) == (403, True)
    assert reader.get("/catalogue/work/undo").status == reader.get("/catalogue/none/do").status == 404


def test_each_name_of_an_action_has_its_page() -> None:
    names = ["do", "a/b", "/", "a b", "a%2Fb", "%", "a?b#c", "ü", "a;b", "<b>"]
    actions = [create_action(name=name, description="", handler=lambda data, ctx: Success(None)) for name in names]
    storage = InMemoryStorage()
    acme = storage.create_tenant(slug="acme", name="Acme")
    services = [create_service(name=name, description="", actions=actions) for name in names]
    engine = create_engine(services=services, storage=storage)
    context = RequestContext(acme, Actor.human("ann"))
    client = Till.client_of(create_console(engine, lambda request: context))

    links = [unescape(link) for link in re.findall(r'href="(/catalogue/[^"]+)"', client.get("/catalogue").text)]
    own = links[: len(names) ** 2]
    assert len(set(own)) == len(names) ** 2
    for link in own:
        # This client decodes a path twice, and servers do it once.
        assert client.get(quote(link)).status_code == 200, link


def test_a_host_has_services_of_these_names_itself() -> None:
    storage = InMemoryStorage()
    acme = storage.create_tenant(slug="acme", name="Acme")
    done: list[str] = []

    def do(data: Any, ctx: ActionContext) -> Result[list[Any], Any]:
        done.append("done")
        return Success([{"id": "x"}])

    names = {"changes": ("list", "get", "merge"), "workflows": ("list", "get", "cancel")}
    services = [
        create_service(
            name=service,
            description="",
            actions=[create_action(name=name, description="", handler=do) for name in actions],
        )
        for service, actions in names.items()
    ]
    engine = create_engine(services=services, storage=storage)
    context = RequestContext(acme, Actor.human("ann", permissions=["*"]))
    client = Till.client_of(create_console(engine, lambda request: context))

    overview = client.get("/").text
    assert "/changes" not in overview
    assert "/runs" not in overview
    for path in ("/runs", "/runs/1", "/changes", "/changes/1"):
        assert client.get(path).status_code == 404
    for path in ("/do/changes/merge", "/do/workflows/cancel"):
        assert client.post(path, data={"key": "k", "payload": "{}"}).status_code == 404
    assert done == []


@pytest.mark.parametrize("path", ["/runs", "/runs/1", "/changes", "/changes/1"])
def test_a_service_that_is_not_there_has_no_page(reader: Caller, path: str) -> None:
    page = reader.get(path)

    assert page.status == 404
    assert "this application does not have it" in page.tags.text
    assert not any(path in link for link in reader.get("/").tags.links)


def test_statuses_of_runs_are_those_of_workflows() -> None:
    assert get_args(RunStatus) == STATUSES


@pytest.mark.parametrize(("ids", "after"), [("", None), ("a", None), ("ab", "b")])
def test_a_full_page_may_have_a_next_one(ids: str, after: str | None) -> None:
    assert next_after([GetExecution(id=id) for id in ids], 2) == after


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer or null"),
        ({"enum": ["a", "b"]}, "a, b"),
        ({"const": 1}, "1"),
        ({"type": "array", "items": {"$ref": "#/$defs/Thing"}}, "array of object"),
        ({"type": "string", "format": "date-time"}, "string, date-time"),
        ({"$ref": "#/$defs/Thing"}, "object"),
        (True, "any"),
        ({}, "any"),
    ],
)
def test_a_type_is_said_in_words(schema: Any, words: str) -> None:
    assert type_in_words(schema, {"$defs": {"Thing": {"type": "object"}}}) == words


def test_fields_are_those_of_the_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "A."}}, "required": ["a"]}

    assert fields_of(schema) == [{"name": "a", "type": "string", "is_required": True, "description": "A."}]
    assert fields_of({}) == []
