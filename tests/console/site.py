"""The console of an engine over HTTP, without a browser: pages read as their tags, buttons pressed as their forms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from actionengine import Actor, Engine, RequestContext, Tenant
from actionengine.console import create_console
from actionengine.console.security import HEADERS
from actionengine.storage.sql.storage import SQLStorage

ROOT = "/t/acme/console"
"""The path of the console of the tenant `acme`."""

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})


@dataclass
class Form:
    """A form of a page: its method, the path of its action, and the values of its fields."""

    method: str
    action: str
    values: dict[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """The action of the engine that a button executes, as `service.action`."""
        return ".".join(self.action.split("/")[-2:])

    @property
    def payload(self) -> Any:
        return json.loads(self.values["payload"])


class PageTags(HTMLParser):
    """The links, forms and headings of a page, and what no page of the console may have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.heading = ""
        self.alien: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"unclosed: {self._open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def buttons(self) -> list[Form]:
        """The forms that execute an action."""
        return [form for form in self.forms if form.method == "post"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append(tag)
        self.alien += [f"{tag} {name}" for name in given if name.startswith("on") or name == "style"]
        if (tag == "script" and "src" not in given) or tag in ("style", "iframe", "object", "base"):
            self.alien.append(tag)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "form":
            self.forms.append(Form(given.get("method", "get"), given.get("action", "")))
        elif tag in ("input", "textarea", "select") and "name" in given and "form" in self._open:
            self.forms[-1].values[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1:] == [tag], f"</{tag}> ends {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        inside = self._open[-1] if self._open else ""
        if inside == "h1":
            self.heading += data
        elif inside == "button" and self.forms:
            self.forms[-1].label = data.strip()
        elif inside == "textarea":
            *_, name = self.forms[-1].values
            self.forms[-1].values[name] = data
        elif inside in ("script", "style") and data.strip():
            self.alien.append(f"{inside} {data}")


@dataclass(frozen=True)
class Answer:
    """A response of the console."""

    status: int
    text: str
    location: str
    tags: PageTags


class Site:
    """The console of an engine, mounted for each tenant at `/t/{tenant}/console`. `actors` are its callers, by name."""

    def __init__(self, engine: Engine, actors: Mapping[str, Actor], title: str = "Site") -> None:
        self.engine = engine
        self.actors = actors
        console = create_console(engine, self._identify, title=title)
        self.app = Starlette(routes=[Mount("/t/{tenant}/console", console)], lifespan=self._lifespan)
        self._client = TestClient(self.app, follow_redirects=False)

    def __enter__(self) -> Self:
        """Serve in one event loop until the end of the block."""
        self._client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        if isinstance(self.engine.storage, SQLStorage):
            await self.engine.storage.aclose()

    def _identify(self, request: Request) -> RequestContext | None:
        name = request.headers.get("x-caller")
        if name is None:
            return None
        tenant = self.engine.resolve_tenant(request.path_params["tenant"]).unwrap()
        return RequestContext(tenant, self.actors[name], source="console")

    def context(self, caller: str, tenant: Tenant) -> RequestContext:
        return RequestContext(tenant, self.actors[caller], source="check")

    def things(self, slug: str) -> dict[str, str]:
        """Return the ids of some things of a seeded tenant: an approval, an execution, a run and two changes."""
        tenant = self.engine.resolve_tenant(slug).unwrap()
        context = RequestContext(tenant, Actor.system("things"))

        def first(name: str, **payload: Any) -> str:
            service, action = name.split(".")
            listed = self.engine.execute_action(service, action, payload, context).unwrap()
            return str(next(iter(getattr(listed, "items", listed))).id)

        return {
            "approval": first("approvals.list", status="pending", requested_by="human:carla"),
            "execution": first("action_log.list", action="payments.refund", outcome="succeeded"),
            "run": first("workflows.list", status="paused"),
            "change": first("changes.list", status="Ready"),
            "broken": first("changes.list", status="Draft"),
        }

    def caller(self, name: str | None, check: Callable[[Answer], None] = lambda answer: None) -> Caller:
        """Return a caller's browser. `check` sees each of its answers."""
        return Caller(self._client, name, check)


class Caller:
    """A caller's browser without scripts."""

    def __init__(self, client: TestClient, name: str | None, check: Callable[[Answer], None]) -> None:
        self._client = client
        self._headers = {"x-caller": name} if name is not None else {}
        self._check = check

    def get(self, path: str, root: str = ROOT) -> Answer:
        """Open a path below the root of the console."""
        return self.open(root + path)

    def open(self, url: str) -> Answer:
        return self._answer("GET", url, None)

    def press(self, form: Form, **filled: str) -> Answer:
        """Send a form, with the texts that the operator fills in."""
        values = {**form.values, **{f"field.{name}": value for name, value in filled.items()}}
        return self._answer("POST", form.action, values)

    def _answer(self, method: str, url: str, data: Mapping[str, str] | None) -> Answer:
        response = self._client.request(method, url, data=data, headers=self._headers)
        is_page = response.headers.get("content-type", "").startswith("text/html")
        for name, value in HEADERS.items():
            if not urlsplit(url).path.startswith(f"{ROOT}/static/"):
                assert response.headers[name.decode()] == value.decode(), (url, name)
        tags = PageTags(response.text if is_page else "")
        answer = Answer(response.status_code, response.text, response.headers.get("location", ""), tags)
        assert answer.status < 500, (method, url, data, answer.tags.text)
        assert not tags.alien, (url, tags.alien)
        self._check(answer)
        return answer


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))
