"""A bank of documents, and a harness that previews its actions and executes them with plans."""

from __future__ import annotations

from typing import Any

from returns.result import Failure, Result, Success

from actionengine import ActionContext, Actor, RequestContext, create_action, create_service
from actionengine.context import Tenant
from tests.harness import ANN, Harness

PAYLOAD = {"from": "a", "to": "b", "amount": 30}


class Desk(Harness):
    """A harness that previews."""

    def context(self, by: Actor = ANN, tenant: Tenant | None = None, **fields: Any) -> RequestContext:
        """Return the context of a request."""
        return RequestContext(tenant or self.tenant, by, source="test", **fields)

    async def preview(self, name: str, payload: Any = PAYLOAD, **fields: Any) -> Any:
        """Return a preview of `service.action`, or the `ActionError`."""
        service, action = name.split(".")
        context = self.context(**fields)
        if self.backend.mode == "async":
            answer = await self.engine.preview_async(service, action, payload, context)
        else:
            answer = self.engine.preview(service, action, payload, context)
        return answer.failure() if isinstance(answer, Failure) else answer.unwrap()

    async def perform(self, name: str, payload: Any = PAYLOAD, **fields: Any) -> Any:
        """Execute `service.action` with a plan. Return its value, or the `ActionError`."""
        service, action = name.split(".")
        answer = await self.backend.execute(self.engine, service, action, payload, self.context(**fields))
        return answer.failure() if isinstance(answer, Failure) else answer.unwrap()

    async def balance(self, id: str) -> int:
        """Return the balance of an account."""
        record = await self.backend.get("accounts", id)
        assert record is not None
        balance: int = record.data["balance"]
        return balance


def transfer(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Move an amount between two accounts, and write it down."""
    accounts = ctx.records("accounts")
    for id, amount in ((data["from"], -data["amount"]), (data["to"], data["amount"])):
        account = accounts.get(id)
        if account is None:
            return Failure("no account")
        accounts.update(id, {**account.data, "balance": account.data["balance"] + amount}, account.version)
    made = ctx.records("transfers").insert({**data, "at": ctx.now.isoformat(), "reference": ctx.new_id()})
    ctx.emit("Transferred", {"amount": data["amount"]}, subject=f"transfers/{made.id}")
    return Success(made.id)


def open_account(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Insert an account."""
    return Success(ctx.records("accounts").insert({"balance": data["balance"]}, data["id"]).id)


def read_account(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Return a balance."""
    account = ctx.records("accounts").get(data["id"])
    return Success(account.data["balance"] if account is not None else None)


ACTIONS = (
    create_action(name="open", description="Open an account", handler=open_account),
    create_action(name="transfer", description="Move an amount", handler=transfer),
    create_action(name="read", description="Return a balance", handler=read_account, read_only=True),
)

BANK = create_service(name="bank", description="Accounts", actions=ACTIONS)
