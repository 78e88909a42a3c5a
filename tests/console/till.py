"""A small host with payments that wait for approvals, and its console over HTTP, asked as one actor or another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from typing import Any
from uuid import uuid4

from returns.result import Failure, Result, Success
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from actionengine import (
    ActionContext,
    Actor,
    ApprovalPolicy,
    Engine,
    InMemoryStorage,
    RequestContext,
    Storage,
    Tenant,
    always,
    create_action,
    create_engine,
    create_service,
)
from actionengine.console import create_console
from actionengine.errors import ActionError

USER = "x-user"
"""The header that names the caller, as `tenant/actor`; the permissions of an actor are in `RIGHTS`."""

RIGHTS = {
    "boss": ["payments.approve", "action_log.read"],
    "deputy": ["payments.approve"],
    "clerk": ["payments.pay"],
    "auditor": ["action_log.read", "approvals.read"],
    "operator": ["relay.read"],
    "guest": [],
}

_FORM = re.compile(r'<form class="press".*?</form>', re.DOTALL)
_ACTION = re.compile(r'action="([^"]*)"')
_VALUE = re.compile(r'name="([^"]+)" value="([^"]*)"')
_AREA = re.compile(r'<textarea[^>]* name="([^"]+)"[^>]*>(.*?)</textarea>', re.DOTALL)


def pay(data: dict[str, Any], ctx: ActionContext) -> Result[Any, ActionError]:
    """Insert a payment; fail for one that the bank refuses."""
    if data.get("fails"):
        return Failure(ActionError("unprocessable", "the bank refused it"))
    return Success({"id": ctx.records("payments").insert({"amount": data["amount"]}).id})


def by(actor: str, tenant: str = "acme") -> dict[str, str]:
    """Return the headers of a caller."""
    return {USER: f"{tenant}/{actor}"}


class Form(dict[str, str]):
    """The values of a button's form; `action` is its URL."""

    def __init__(self, html: str) -> None:
        super().__init__({name: unescape(value) for name, value in (*_VALUE.findall(html), *_AREA.findall(html))})
        self.pop("preview", None)
        self.action = unescape(_ACTION.findall(html)[0])


class Till:
    """An engine on a storage, and a client of its console at `root`."""

    def __init__(self, storage: Storage | None = None, **policy: Any) -> None:
        policy = {"when": always, "permission": "payments.approve", **policy}
        payments = create_service(
            name="payments",
            description="Payments",
            actions=[
                create_action(
                    name="pay",
                    description="Pay",
                    handler=pay,
                    permission="payments.pay",
                    approval=ApprovalPolicy(**policy),
                ),
            ],
        )
        self.storage = storage or InMemoryStorage()
        self.engine: Engine = create_engine(services=[payments], storage=self.storage)
        # Tests share a database, and have tenants of their own.
        end = "" if storage is None else f"-{uuid4().hex[:12]}"
        self.tenants = {name: self.storage.create_tenant(slug=name + end, name=name) for name in ("acme", "globex")}
        self.client = self.client_of(create_console(self.engine, self.identify))

    @staticmethod
    def client_of(app: ASGIApp, **options: Any) -> TestClient:
        return TestClient(app, follow_redirects=False, raise_server_exceptions=False, **options)

    def identify(self, request: Request) -> RequestContext | None:
        user = request.headers.get(USER)
        return None if user is None else self.context(*user.split("/"))

    def context(self, tenant: str, actor: str) -> RequestContext:
        return RequestContext(self.tenants[tenant], Actor.human(actor, permissions=RIGHTS[actor]))

    def tenant(self, slug: str = "acme") -> Tenant:
        return self.tenants[slug]

    def ask(self, amount: int = 5, tenant: str = "acme", reason: str | None = None, **payload: Any) -> str:
        """Ask for a payment as the clerk, and return the id of its approval."""
        context = RequestContext(self.tenants[tenant], Actor.human("clerk", permissions=RIGHTS["clerk"]), reason=reason)
        error = self.engine.execute_action("payments", "pay", {"amount": amount, **payload}, context).failure()
        id: str = error.details["approval_id"]
        return id

    def get(self, path: str, actor: str = "boss", tenant: str = "acme", **headers: str) -> Any:
        return self.client.get(path, headers={**by(actor, tenant), **headers})

    def forms(self, path: str, actor: str = "boss") -> dict[str, Form]:
        """Return the forms of a page by the action that each executes."""
        answer = self.get(path, actor)
        assert answer.status_code == 200, answer.text
        return forms_of(answer.text)

    def press(self, form: Form, actor: str = "boss", headers: Mapping[str, str] | None = None, **fields: str) -> Any:
        """Send a form, with the operator's values of its fields."""
        filled = {**form, **{f"field.{name}": value for name, value in fields.items()}}
        return self.client.post(form.action, data=filled, headers={**by(actor), **(headers or {})})

    def paid(self, tenant: str = "acme") -> int:
        """Return the number of payments."""
        return len([row for row in self.log(tenant, action="payments.pay") if row.outcome == "succeeded"])

    def log(self, tenant: str = "acme", **query: Any) -> list[Any]:
        context = RequestContext(self.tenants[tenant], Actor.system("reader"))
        page = self.engine.execute_action("action_log", "list", {"limit": 1000, **query}, context).unwrap()
        return [row for row in page.items if row.actor_id != "reader"]


def forms_of(html: str) -> dict[str, Form]:
    """Return the forms of a page by the action that each executes."""
    forms = [Form(each) for each in _FORM.findall(html)]
    return {".".join(form.action.split("/")[-2:]): form for form in forms}
