"""A crawler of the console: it follows every link, presses every button, and forges those that are not there."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from actionengine import Tenant
from actionengine.changes.states import STATUSES
from actionengine.console.buttons import Button
from actionengine.console.pages import PAGES
from tests.console.site import ROOT, Answer, Caller, Form, Site

ALL = 10**9
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")

Dump = Mapping[str, list[Any]]
"""The rows of all tables but the action log, by table."""


class Logged(NamedTuple):
    """A row of the action log."""

    id: str
    action: str
    outcome: str
    actor: str
    source: str


class Thing(NamedTuple):
    """A thing with buttons. Its kind is the path of its page."""

    kind: str
    id: str
    tenant: Tenant

    @property
    def path(self) -> str:
        """The path of the page with its buttons."""
        return self.kind.replace("{id}", self.id)

    def offered(self, page: Answer) -> list[tuple[str, Any]]:
        """Return the actions and payloads of the buttons that a page offers for it."""
        return [(form.name, form.payload) for form in page.tags.buttons if self.id in form.values["payload"]]


LISTS = {
    "/approvals/{id}": "approvals.list",
    "/runs/{id}": "workflows.list",
    "/changes/{id}": "changes.list",
    "/dead-letters": "relay.dead_letters",
}
"""The action that lists the things of each kind."""


def crawl(caller: Caller, most: int = ALL) -> dict[str, Answer]:
    """Open the overview and every page that a link leads to, and return the pages. Of addresses that differ in an id or
    in the value of a parameter only, open `most`."""
    pages: dict[str, Answer] = {}
    seen: Counter[str] = Counter()
    waiting = [f"{ROOT}/"]
    while waiting:
        url = waiting.pop().partition("#")[0]
        if url in pages or not url.startswith(ROOT) or "/static/" in url or url.endswith("/live"):
            continue
        kind = _kind_of(url)
        seen[kind] += 1
        if seen[kind] > most:
            continue
        answer = caller.open(url)
        if answer.status == 404 and url.startswith(f"{ROOT}/approvals/"):
            continue  # A run names the approval that it waits for to callers that may not see it.
        assert answer.status == 200, (url, answer.status, answer.tags.text)
        pages[url] = answer
        waiting += answer.tags.links
    return pages


def _kind_of(url: str) -> str:
    path, _, query = url.partition("?")
    path = re.sub(r"(/catalogue)/.+", r"\1/{}", _ID.sub("{}", path))
    return path + "?" + "&".join(sorted(each.partition("=")[0] for each in query.split("&")))


def declared_for(thing: Thing) -> list[tuple[Button, dict[str, Any], str | None]]:
    """Return each button that the page of a thing declares, with its payload for the thing and its resource."""
    page = next(page for page in PAGES if page.path == thing.kind)
    return [(button, *_payload_of(button, thing)) for button in page.buttons]


def _payload_of(button: Button, thing: Thing) -> tuple[dict[str, Any], str | None]:
    if thing.kind == "/approvals/{id}":
        return {"approval_id": thing.id}, None
    if thing.kind == "/runs/{id}":
        return {"run_id": thing.id}, f"workflow_run/{thing.id}"
    if thing.kind == "/dead-letters":
        return {"ids": [thing.id], "queue": "events"}, None
    about, resource = {"change_id": thing.id}, f"change/{thing.id}"
    if button.action != "changes.transition":
        return about, resource
    return {**about, "status": next(each for each in STATUSES if button.label.endswith(f" {each}"))}, resource


def forged(button: Button, payload: Mapping[str, Any]) -> Form:
    """Return the form of a button that no page has offered."""
    action = f"{ROOT}/do/{button.action.replace('.', '/')}"
    values = {"payload": json.dumps(payload), "key": str(uuid4()), "return": "/"}
    return Form("post", action, {**values, **{f"field.{field.name}": "" for field in button.fields}})


class Business:
    """The crawler's knowledge of the business besides the console: its database, and all things of a tenant."""

    def __init__(self, site: Site, file: Path) -> None:
        self.site = site
        self._file = file
        self._before: Dump | None = None

    def tenant(self, slug: str) -> Tenant:
        return self.site.engine.resolve_tenant(slug).unwrap()

    def things(self, slug: str) -> list[Thing]:
        """Return everything of a tenant that has buttons."""
        tenant = self.tenant(slug)
        listed = [(kind, self._read(tenant, action)) for kind, action in LISTS.items()]
        return [Thing(kind, each.id, tenant) for kind, page in listed for each in getattr(page, "items", page)]

    def executions(self, slug: str) -> list[str]:
        """Return the ids of all executions of a tenant."""
        return [entry.id for entry in self._read(self.tenant(slug), "action_log.list").items]

    def _read(self, tenant: Tenant, action: str) -> Any:
        context = replace(self.site.context("system", tenant), source="crawler")
        service, name = action.split(".")
        return self.site.engine.execute_action(service, name, {"limit": 200}, context).unwrap()

    def is_allowed(self, caller: str, tenant: Tenant, button: Button, resource: str | None) -> bool:
        service, action = button.action.split(".")
        return self.site.engine.can(self.site.context(caller, tenant), service, action, resource).unwrap().allowed

    def dump(self) -> Dump:
        """Return all rows besides the action log."""
        with closing(sqlite3.connect(self._file)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {
                name: database.execute(f'SELECT * FROM "{name}"').fetchall()
                for name in names
                if not name.startswith(("ae_action_log", "sqlite_"))
            }

    def logged(self, after: str = "") -> list[Logged]:
        """Return the rows of the action log, oldest first, after one of an id."""
        columns = "id, action, outcome, actor_type || ':' || actor_id, source"
        statement = f"SELECT {columns} FROM ae_action_log WHERE id > ? ORDER BY id"
        with closing(sqlite3.connect(self._file)) as database:
            return [*map(Logged._make, database.execute(statement, (after,)))]

    def _last_logged(self) -> str:
        with closing(sqlite3.connect(self._file)) as database:
            return str(database.execute("SELECT max(id) FROM ae_action_log").fetchone()[0])

    def press(self, caller: Caller, name: str, form: Form) -> tuple[Answer, bool, list[Logged]]:
        """Press a button; return the answer, whether anything was written besides keys, and the rows that it logged.

        Each write must come with a row of the action log.
        """
        before, last = self._before or self.dump(), self._last_logged()
        answer = caller.press(form, **{field[6:]: "because" for field in form.values if field.startswith("field.")})
        after, rows = self.dump(), self.logged(last)
        self._before = after
        own = [row for row in rows if row.action == form.name and row.source == "console"]
        assert [row.actor for row in own] == [str(self.site.actors[name])], (form, answer.tags.text, rows)
        changed = {table for table in after if after[table] != before[table]}
        if changed:
            assert {row.outcome for row in rows} & {"succeeded", "approval_required", "failed"}, (form, changed, rows)
        return answer, bool(changed - {"ae_idempotency_keys"}), own
