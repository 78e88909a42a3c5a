"""Expired approvals: later requests mark them, a few at a time."""

from __future__ import annotations

from datetime import timedelta

from returns.result import Success

from actionengine import Actor, ErrorCode, InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.pipeline.pending_approval import EXPIRIES
from actionengine.storage.records import APPROVALS
from tests.conftest import EngineOf, Execute, log_of, make_action
from tests.test_approval_rules import Payment, Till, boss, policy, stored

AT_ONCE = timedelta(microseconds=1)


def statuses(storage: InMemoryStorage, tenant: Tenant) -> list[str]:
    unit = storage.unit_of_work(tenant, "a", "sync", read_only=True)
    return [record.data["status"] for record in run_sync(unit.records(APPROVALS).list(limit=1000))]


def waiting(storage: InMemoryStorage, tenant: Tenant) -> int:
    unit = storage.unit_of_work(tenant, "a", "sync", read_only=True)
    return len(run_sync(unit.records(EXPIRIES).list(limit=1000)))


def expire(storage: InMemoryStorage, tenant: Tenant, *ids: str) -> None:
    """Give approvals a long past expiry, without marking them."""
    unit = storage.unit_of_work(tenant, "a", "sync")
    past = "2020-01-01T00:00:00.000000+00:00"
    for id in ids:
        record = run_sync(unit.records(APPROVALS).get(id))
        assert record is not None
        run_sync(unit.records(APPROVALS).update(id, {**record.data, "expires_at": past}, record.version))
        (entry,) = (each for each in run_sync(unit.records(EXPIRIES).list(limit=1000)) if each.id.endswith(id))
        run_sync(unit.records(EXPIRIES).delete(entry.id, entry.version))
        run_sync(unit.records(EXPIRIES).insert({}, f"{past}/{id}"))
    run_sync(unit.commit())


def test_what_has_expired_is_marked_when_others_are_asked_for(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    lasting = Till(engine_of, execute, acme, policy())
    first = lasting.ask(1)
    brief = Till(engine_of, execute, acme, policy(expires_after=AT_ONCE))
    for number in range(30):
        brief.ask(100 + number)
    lasting.ask(2)

    assert statuses(storage, acme) == ["pending", *["expired"] * 30, "pending"]
    assert waiting(storage, acme) == 2
    assert stored(storage, acme, first).status == "pending"
    assert len(brief.do("approvals.list", {"status": "expired"}).unwrap().items) == 30
    assert len(brief.do("approvals.list", {"status": "pending"}).unwrap().items) == 2


def test_each_request_marks_some_of_many_expired_approvals(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    till = Till(engine_of, execute, acme)
    ids = [till.ask(number) for number in range(25)]
    expire(storage, acme, *ids)

    seen = []
    for number in range(3):
        till.ask(100 + number)
        seen.append(statuses(storage, acme).count("expired"))

    assert seen == [10, 20, 25]
    assert len(till.do("approvals.list", {"status": "expired"}).unwrap().items) == 25


def test_what_is_marked_is_as_it_was_in_all_else(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    till = Till(engine_of, execute, acme, policy(expires_after=AT_ONCE))
    id = till.ask(idempotency_key="k")
    till.ask(6)

    kept = stored(storage, acme, id)
    assert (kept.status, kept.decided_by, kept.decided_at, kept.payload != "") == ("expired", None, None, True)
    shown = till.do("approvals.get", {"approval_id": id}, boss()).unwrap()
    assert (shown.status, shown.requested_by, shown.permission) == ("expired", "human:ann", "pay.approve")
    for decision, actor in (("approve", boss()), ("reject", boss()), ("cancel", Actor.human("ann"))):
        error = till.decide(decision, id, actor).failure()
        assert (error.code, error.details["status"]) == (ErrorCode.CONFLICT, "expired")
    # The key is free for another approval.
    assert till.ask(idempotency_key="k") != id


def test_what_was_decided_is_not_marked(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    till = Till(engine_of, execute, acme)
    id = till.ask()
    till.decide("reject", id, boss()).unwrap()
    expire(storage, acme, id)
    till.ask()

    assert stored(storage, acme, id).status == "rejected"
    assert waiting(storage, acme) == 1


def test_a_failure_to_mark_expired_approvals_fails_no_request(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    till = Till(engine_of, execute, acme, policy(expires_after=AT_ONCE))
    id = till.ask()
    unit = storage.unit_of_work(acme, "a", "sync")
    run_sync(unit.records(EXPIRIES).insert({}, f"2020/{id}"))
    run_sync(unit.commit())
    unit = storage.unit_of_work(acme, "a", "sync")
    run_sync(unit.records(EXPIRIES).update(f"2020/{id}", {}, 1))

    assert till.ask(6) != id
    run_sync(unit.rollback())


def test_an_input_without_secrets_is_stored_once(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    plain = make_action("plain", lambda data: Success(1), approval=policy())
    secret = make_action("pay", lambda data: Success(1), approval=policy(), validation=Payment)
    engine = engine_of(plain, secret)
    payload = {"amount": 5, "card": "4111 2222"}
    ids = [execute(engine, f"work.{name}", payload).failure() for name in ("plain", "pay")]
    once, twice = (stored(storage, acme, error.details["approval_id"]) for error in ids)

    assert (once.shows_payload, once.input, once.shown_input) == (True, None, payload)
    assert (twice.shows_payload, twice.input) == (False, {"amount": 5, "card": "**********"})
    assert twice.shown_input == twice.input
    page = execute(engine, "approvals.list", {}, boss()).unwrap()
    assert [each.input for each in page.items] == [twice.input, payload]
    (row,) = log_of(engine, acme, action="approvals.list")
    assert row.output == {"items": 2, "next": None}
