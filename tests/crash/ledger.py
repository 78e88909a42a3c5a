"""The work of the killed hosts: transfers, each of which must exist wholly or not at all; and the books that show
it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.storage.rows import LogQuery, LogRow, Record, StoredEvent
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork

ACCOUNTS = tuple(f"account {number}" for number in range(8))
PAGE = 1000

T = TypeVar("T")


class Effect(NamedTuple):
    """The counts of a transfer's parts: its two entries, its row in the log, its event, and its undelivered event."""

    debits: int
    credits: int
    logged: int
    events: int
    to_deliver: int


NOTHING = Effect(0, 0, 0, 0, 0)
ONCE = Effect(1, 1, 1, 1, 1)


class Books(NamedTuple):
    """The contents of a database: the effect of each key, the recorded answers, the balances, and the sums of
    entries."""

    effects: Mapping[str, Effect]
    answers: Mapping[str, Any]
    balances: Mapping[str, int]
    entered: Mapping[str, int]

    def effect(self, key: str) -> Effect:
        return self.effects.get(key, NOTHING)


def payload_of(key: str) -> dict[str, Any]:
    """Return the transfer of a key, which is always the same."""
    dice = random.Random(key)
    source, target = dice.sample(ACCOUNTS, 2)
    return {"key": key, "source": source, "target": target, "amount": dice.randint(1, 99)}


def request_of(tenant: Tenant, key: str | None) -> RequestContext:
    return RequestContext(tenant=tenant, actor=Actor.integration("a host"), idempotency_key=key)


def _unharmed(point: str) -> None:
    """Do nothing: a handler calls this at each point where a host can be killed."""


def ledger_engine(storage: SQLStorage, reach: Callable[[str], None] = _unharmed) -> Engine:
    """Return an engine with `ledger.open`, `ledger.transfer` and, for event loops, `ledger.transfer_async`."""

    def open_accounts(data: None, ctx: ActionContext) -> Result[None, Any]:
        for account in ACCOUNTS:
            ctx.records("accounts").insert({"balance": 0}, account)
        return Success(None)

    def transfer(data: dict[str, Any], ctx: ActionContext) -> Result[str, Any]:
        debit = ctx.records("debits").insert(data)
        reach("in the handler")
        ctx.records("credits").insert(data)
        accounts = ctx.records("accounts")
        for account, change in changes_of(data):
            found = accounts.get(account)
            assert found is not None
            accounts.update(account, {"balance": found.data["balance"] + change}, found.version)
        ctx.emit("ledger.transferred", data, data["key"])
        return Success(debit.id)

    async def transfer_async(data: dict[str, Any], ctx: ActionContext) -> Result[str, Any]:
        debit = await ctx.async_records("debits").insert(data)
        reach("in the handler")
        await ctx.async_records("credits").insert(data)
        accounts = ctx.async_records("accounts")
        for account, change in changes_of(data):
            found = await accounts.get(account)
            assert found is not None
            await accounts.update(account, {"balance": found.data["balance"] + change}, found.version)
        ctx.emit("ledger.transferred", data, data["key"])
        return Success(debit.id)

    service = create_service(
        name="ledger",
        description="Accounts, and transfers between them",
        actions=[
            create_action(name="open", description="Open the accounts", handler=open_accounts),
            create_action(name="transfer", description="Move money", handler=transfer, idempotency="required"),
            create_action(
                name="transfer_async", description="Move money", handler=transfer_async, idempotency="required"
            ),
        ],
    )
    return create_engine(services=[service], storage=storage)


def transfer_in(mode: Mode) -> str:
    """Return the name of the action that moves money in this mode."""
    return "transfer" if mode == "sync" else "transfer_async"


async def execute_transfer(engine: Engine, mode: Mode, tenant: Tenant, key: str) -> Result[Any, ActionError]:
    """Execute the transfer of a key."""
    arguments = "ledger", transfer_in(mode), payload_of(key), request_of(tenant, key)
    if mode == "async":
        return await engine.execute_action_async(*arguments)
    return engine.execute_action(*arguments)


def changes_of(data: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the accounts that a transfer changes, in an order that avoids deadlocks."""
    return sorted({data["source"]: -data["amount"], data["target"]: data["amount"]}.items())


def read_books(storage: SQLStorage, tenant: Tenant) -> Books:
    """Return the books of a tenant whose hosts have ended."""
    unit = storage.unit_of_work(tenant, "", "sync", read_only=True)
    try:
        debits, credits, accounts = (_documents(unit, name) for name in ("debits", "credits", "accounts"))
        log = _log(unit)
        statement = "SELECT tenant_id, position FROM ae_outbox"
        to_deliver = {position for id, position in unit.query(statement, ()) if str(id) == str(tenant.id)}
    finally:
        run_sync(unit.rollback())
    entered = Counter(dict.fromkeys(ACCOUNTS, 0))
    for debit in debits:
        entered[debit.data["source"]] -= debit.data["amount"]
    for credit in credits:
        entered[credit.data["target"]] += credit.data["amount"]
    events = [stored for stored in _events(storage, tenant) if stored.event.type == "ledger.transferred"]
    done = [row for row in log if row.outcome == "succeeded" and row.idempotency_key is not None]
    counts = [
        Counter(document.data["key"] for document in debits),
        Counter(document.data["key"] for document in credits),
        Counter(row.idempotency_key for row in done),
        Counter(stored.event.subject for stored in events),
        Counter(stored.event.subject for stored in events if stored.position in to_deliver),
    ]
    keys = {key for count in counts for key in count if key is not None}
    return Books(
        effects={key: Effect(*(count[key] for count in counts)) for key in keys},
        answers={row.idempotency_key: json.loads(row.output or b"null") for row in done if row.idempotency_key},
        balances={document.id: document.data["balance"] for document in accounts},
        entered=dict(entered),
    )


def check_nothing_is_half_there(books: Books, asked: Collection[str], acknowledged: Mapping[str, Any]) -> None:
    """Check that each acknowledged transfer exists once, with its answer, and each other one wholly or not at all."""
    for key in asked:
        expected = {ONCE} if key in acknowledged else {ONCE, NOTHING}
        assert books.effect(key) in expected, f"{key}: {books.effect(key)}"
    assert {key: books.answers.get(key) for key in acknowledged} == acknowledged
    assert set(books.effects) <= set(asked)
    assert books.balances == books.entered


def check_all_is_there_once(books: Books, asked: Collection[str]) -> None:
    assert books.effects == dict.fromkeys(asked, ONCE)
    assert books.balances == books.entered


def _documents(unit: SQLUnitOfWork, collection: str) -> list[Record]:
    return _all(lambda last: run_sync(unit.records(collection).list(limit=PAGE, after=last.id if last else None)))


def _log(unit: SQLUnitOfWork) -> list[LogRow]:
    return _all(lambda last: run_sync(unit.read_log(LogQuery(before=last.id if last else None, limit=PAGE))))


def _events(storage: SQLStorage, tenant: Tenant) -> list[StoredEvent]:
    return _all(lambda last: storage.read_events(tenant, after=last.position if last else 0, limit=PAGE))


def _all(read: Callable[[T | None], Sequence[T]]) -> list[T]:
    rows: list[T] = []
    while page := read(rows[-1] if rows else None):
        rows += page
    return rows
