"""Public operations read a constant number of rows as unrelated rows grow: counted, on both databases."""

from __future__ import annotations

import pytest
from benchmarks.growth import NOT_MEASURED, measure, operations
from benchmarks.growth.backends import create_engine_of
from benchmarks.growth.operation import Operation, Reading
from benchmarks.postgres import Bench

from actionengine.storage.memory.storage import InMemoryStorage
from actionengine.storage.outbox import Outbox
from actionengine.storage.port import Storage

FEW, MANY = 1000, 4000
"""Few are as many as a page of the action log looks at."""


def test_no_verdict_is_worse_than_the_recorded_one(postgres_server: str) -> None:
    worse = [
        f"{reading.operation.name} on {reading.label}: {reading.few} {reading.unit}, then {reading.many}: "
        f"{reading.verdict}, not {reading.operation.at_worst}"
        for reading in measure(FEW, MANY, beside=Bench("", "", postgres_server))
        if reading.is_worse
    ]

    assert worse == []


def test_each_operation_is_measured_or_excepted() -> None:
    engine = create_engine_of(InMemoryStorage())
    actions = {
        f"{service.name}.{action.name}"
        for service in engine.get_services().unwrap()
        for action in engine.get_service_actions(service.name).unwrap()
        if service.name != "notes"
    }
    methods = {
        f"{part}.{name}"
        for part, port in (("storage", Storage), ("outbox", Outbox))
        for name in vars(port)
        if not name.startswith("_") and not name.endswith("_async")
    }
    covered = {name for operation in operations() for name in operation.covers}

    assert covered <= actions | methods
    assert (actions | methods) - covered == set(NOT_MEASURED)


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        (1000, 1000, "flat"),
        (1000, 1390, "flat"),
        (1000, 1900, "logarithmic"),
        (1000, 4000, "grows"),
        (1000, 9000, "explodes"),
        (10, 109, "flat"),
        (0, 0, "flat"),
    ],
)
def test_a_verdict_says_how_what_is_read_grows(few: int, many: int, verdict: str) -> None:
    operation = Operation("asked", lambda backend: None)

    reading = Reading(operation, "SQLite", "VM steps", 100, (1000, 4000), few, many)

    assert reading.verdict == verdict
    assert reading.is_worse == (verdict != "flat")
