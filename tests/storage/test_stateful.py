"""Several open units of work against a model of snapshot isolation in which the first writer wins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from actionengine import ActionError, ErrorCode, InMemoryStorage, Record, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory.claims import ClaimHolder
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.rows import Claim, Recording
from actionengine.testing.rows import event_row, log_row, result

TENANT = Tenant(UUID(int=1), "acme")
IDS = ("a", "b", "c")
SLOTS = st.integers(0, 3)
NUMBERS = st.integers(0, 2)


class Doc(NamedTuple):
    """A document in the model."""

    version: int
    number: int


Docs = dict[str, Doc]


@dataclass
class ModelUnit:
    """A unit of work in the model: it takes its snapshot when it first reads."""

    unit: MemoryUnitOfWork
    snapshot: int | None = None
    writes: dict[str, Doc | None] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    savepoints: list[tuple[object, dict[str, Doc | None]]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


class SnapshotIsolation(RuleBasedStateMachine):
    """The rules are the operations of units of work; each asks the storage and compares it with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = InMemoryStorage()
        self.states: list[Docs] = [{}]
        self.changed: dict[str, int] = {}
        self.keys: dict[str, Claim] = {}
        self.events: list[str] = []
        self.open: dict[int, ModelUnit] = {}

    # Documents

    @rule(slot=SLOTS, id=st.sampled_from(IDS))
    def get(self, slot: int, id: str) -> None:
        unit = self.unit(slot)
        assert doc(run_sync(unit.unit.records("docs").get(id))) == self.seen(unit).get(id)

    @rule(
        slot=SLOTS,
        number=st.none() | NUMBERS,
        limit=st.integers(1, 3),
        after=st.sampled_from((None, *IDS)),
        descending=st.booleans(),
    )
    def list(self, slot: int, number: int | None, limit: int, after: str | None, descending: bool) -> None:
        unit = self.unit(slot)
        wanted = None if number is None else {"number": number}
        expected = [
            (id, found)
            for id, found in sorted(self.seen(unit).items(), reverse=descending)
            if (after is None or (id < after if descending else id > after)) and number in (None, found.number)
        ]
        page = run_sync(unit.unit.records("docs").list(wanted, limit, after, descending))
        assert [(record.id, doc(record)) for record in page] == expected[:limit]

    @rule(slot=SLOTS, id=st.sampled_from(IDS), number=NUMBERS)
    def insert(self, slot: int, id: str, number: int) -> None:
        unit = self.unit(slot)
        refusal, found = self.write(unit, id)
        refusal = refusal or (ErrorCode.CONFLICT if found else None)
        assert refused(lambda: run_sync(unit.unit.records("docs").insert({"number": number}, id))) is refusal
        if refusal is None:
            unit.writes[id] = Doc(1, number)

    @rule(slot=SLOTS, id=st.sampled_from(IDS), number=NUMBERS, version=st.integers(1, 3))
    def update(self, slot: int, id: str, number: int, version: int) -> None:
        unit = self.unit(slot)
        refusal = self.change(unit, id, version)
        assert refused(lambda: run_sync(unit.unit.records("docs").update(id, {"number": number}, version))) is refusal
        if refusal is None:
            unit.writes[id] = Doc(version + 1, number)

    @rule(slot=SLOTS, id=st.sampled_from(IDS), version=st.integers(1, 3))
    def delete(self, slot: int, id: str, version: int) -> None:
        unit = self.unit(slot)
        refusal = self.change(unit, id, version)
        assert refused(lambda: run_sync(unit.unit.records("docs").delete(id, version))) is refusal
        if refusal is None:
            unit.writes[id] = None

    # Idempotency keys

    @rule(slot=SLOTS, key=st.sampled_from("kl"), fingerprint=st.sampled_from("xy"))
    def claim(self, slot: int, key: str, fingerprint: str) -> None:
        unit = self.unit(slot)
        claim = Claim("docs.put", key, fingerprint)
        expected = "claimed"
        if any(held.key == key for other in self.open.values() for held in other.claims):
            expected = "in_progress"
        elif key in self.keys:
            expected = "replay" if self.keys[key].fingerprint == fingerprint else "mismatch"
        assert run_sync(unit.unit.claim(claim, 0.0)).status == expected
        if expected == "claimed":
            unit.claims.append(claim)

    # The transaction

    @rule(slot=SLOTS)
    def savepoint(self, slot: int) -> None:
        unit = self.unit(slot)
        unit.savepoints.append((run_sync(unit.unit.savepoint()), dict(unit.writes)))

    @rule(slot=SLOTS, back=st.integers(0, 3))
    def rollback_to(self, slot: int, back: int) -> None:
        unit = self.unit(slot)
        if back < len(unit.savepoints):
            del unit.savepoints[len(unit.savepoints) - back :]
            savepoint, writes = unit.savepoints[-1]
            run_sync(unit.unit.rollback_to(savepoint))
            unit.writes = dict(writes)

    @rule(slot=SLOTS)
    def release(self, slot: int) -> None:
        unit = self.unit(slot)
        if unit.savepoints:
            run_sync(unit.unit.release(unit.savepoints.pop()[0]))

    @precondition(lambda self: self.open)
    @rule(slot=SLOTS)
    def commit(self, slot: int) -> None:
        if slot not in self.open:
            return
        unit = self.open.pop(slot)
        event = event_row(TENANT)
        results = [result(claim) for claim in unit.claims]
        run_sync(unit.unit.record(Recording((log_row(TENANT),), (event,), results)))
        run_sync(unit.unit.commit())
        self.events.append(event.id)
        self.keys.update({claim.key: claim for claim in unit.claims})
        merged: dict[str, Doc | None] = {**self.states[-1], **unit.writes}
        self.states.append({id: found for id, found in merged.items() if found is not None})
        self.changed.update(dict.fromkeys(unit.writes, len(self.states) - 1))

    @precondition(lambda self: self.open)
    @rule(slot=SLOTS)
    def rollback(self, slot: int) -> None:
        if slot in self.open:
            run_sync(self.open.pop(slot).unit.rollback())

    # What always holds

    @invariant()
    def what_is_committed_is_what_a_new_unit_sees(self) -> None:
        unit = self.storage.unit_of_work(TENANT, "reader", "sync", True)
        page = run_sync(unit.records("docs").list())
        run_sync(unit.rollback())
        assert {record.id: doc(record) for record in page} == self.states[-1]
        stored = self.storage.read_events(TENANT)
        assert [item.event.id for item in stored] == self.events

    @invariant()
    def only_open_units_hold_anything(self) -> None:
        data = self.storage._tenant_data(TENANT.id)
        open = {unit.unit: unit for unit in self.open.values()}
        assert {(id, unit.unit) for unit in open.values() for id in unit.locked} == {
            (key[1], holder) for key, holder in data.locks.items()
        }
        assert {unit for unit in open if open[unit].snapshot is not None} == set(data.snapshots)
        held = {key[1] for key, entry in data.claims.items() if isinstance(entry, ClaimHolder)}
        assert held == {claim.key for unit in open.values() for claim in unit.claims}

    def teardown(self) -> None:
        for slot in tuple(self.open):
            self.rollback(slot)
        self.only_open_units_hold_anything()
        unit = self.storage.unit_of_work(TENANT, "last", "sync")
        for id in self.states[-1]:
            run_sync(unit.records("docs").update(id, {"number": 0}, self.states[-1][id].version))
        run_sync(unit.records("docs").insert({}, "last"))
        run_sync(unit.commit())
        data = self.storage._tenant_data(TENANT.id)
        assert data.tombstones == []
        assert set(data.collections["docs"]) == {*self.states[-1], "last"}
        assert all(version.previous is None for version in data.collections["docs"].values())

    # The model

    def unit(self, slot: int) -> ModelUnit:
        if slot not in self.open:
            self.open[slot] = ModelUnit(self.storage.unit_of_work(TENANT, f"unit {slot}", "sync"))
        return self.open[slot]

    def seen(self, unit: ModelUnit) -> Docs:
        """Return the documents that a unit reads: its snapshot with its own writes on top."""
        if unit.snapshot is None:
            unit.snapshot = len(self.states) - 1
        merged: dict[str, Doc | None] = {**self.states[unit.snapshot], **unit.writes}
        return {id: found for id, found in merged.items() if found is not None}

    def write(self, unit: ModelUnit, id: str) -> tuple[ErrorCode | None, Doc | None]:
        """The first writer wins: a unit conflicts with another one that holds the document, or has committed it
        since."""
        if any(id in other.locked for other in self.open.values() if other is not unit):
            return ErrorCode.CONFLICT, None
        unit.locked.add(id)
        if id in unit.writes:
            return None, unit.writes[id]
        if unit.snapshot is not None and self.changed.get(id, 0) > unit.snapshot:
            return ErrorCode.CONFLICT, None
        return None, self.states[-1].get(id)

    def change(self, unit: ModelUnit, id: str, version: int) -> ErrorCode | None:
        refusal, found = self.write(unit, id)
        if refusal is None and found is None:
            return ErrorCode.NOT_FOUND
        if refusal is None and found is not None and found.version != version:
            return ErrorCode.CONFLICT
        return refusal


def doc(record: Record | None) -> Doc | None:
    return Doc(record.version, record.data["number"]) if record else None


def refused(call: Any) -> ErrorCode | None:
    try:
        call()
    except ActionError as error:
        return error.code
    return None


def test_units_of_work_behave_as_the_model_says() -> None:
    run_state_machine_as_test(
        SnapshotIsolation, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )


@pytest.mark.soak
def test_units_of_work_behave_as_the_model_says_for_long() -> None:
    run_state_machine_as_test(
        SnapshotIsolation, settings=settings(max_examples=3000, stateful_step_count=100, deadline=None)
    )
