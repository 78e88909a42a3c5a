"""The rows that each public operation reads, with few and with many unrelated rows.

    python -m benchmarks.growth [--few N] [--many N] [--only WORD ...]

prints a row for each operation and backend, with the verdict, and ends with 1 where a verdict is worse than the one
that is recorded with the operation. An area is a module: `fill` adds rows to a world, `OPERATIONS` are measured. Add
yours to `AREAS`, and take what they cover out of `NOT_MEASURED`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

from benchmarks.growth import approvals, change_control, directory, documents, events, log, relays, roles, workflows
from benchmarks.growth.backends import Backend, PostgresBackend, sqlite_backend_of_size
from benchmarks.growth.operation import Operation, Reading
from benchmarks.postgres import Bench, database
from benchmarks.report import Aim, Row
from benchmarks.timing import Timing

AREAS: tuple[ModuleType, ...] = (log, events, relays, documents, change_control, roles, directory, approvals, workflows)

_OF_FILES = ("write_files", "start_workspace", "stop_workspace", "workspace")
NOT_MEASURED = {
    **{f"changes.{name}": "the files of a module decide, not the rows of tables" for name in _OF_FILES},
    **{
        f"workflow_steps.{name}": "for the library's own executor alone"
        for name in ("next", "perform", "fail_step", "await_approval", "fire", "decline")
    },
    "budgets.usage": "it reads a row for each budget that the host's code declares",
    "workflows.resume": "it takes a run that a step has failed; it reads that run",
    "storage.unit_of_work": "no work until it is used; each action uses one",
    "storage.access_version": "a number of this process",
    "outbox.wake": "it asks no database",
}
"""Actions, methods of a storage and of its outbox that have no operation here, and why."""

FEW, MANY = 1_000, 32_000


def operations() -> list[Operation]:
    """All operations, area by area."""
    return [operation for area in AREAS for operation in area.OPERATIONS]


def filled(backend: Backend, areas: Iterable[ModuleType] = AREAS) -> Backend:
    """The world with the rows of these areas."""
    for area in areas:
        area.fill(backend)
    if isinstance(backend, PostgresBackend):
        backend.filled()
    return backend


@contextmanager
def postgres_backends(sizes: Iterable[int], beside: Bench | None) -> Iterator[list[PostgresBackend]]:
    """New databases on one server, that of another benchmark or one of its own."""
    with database(beside) as first:
        backends = []
        for number, size in enumerate(sizes):
            if number:
                with database(first) as bench:
                    backends.append(PostgresBackend(bench, size))
            else:
                backends.append(PostgresBackend(first, size))
        try:
            yield backends
        finally:
            for backend in backends:
                backend.close()


def measure(
    few: int = FEW, many: int = MANY, only: Iterable[str] = (), beside: Bench | None = None
) -> Iterator[Reading]:
    """Measure the operations (those with one of these words in their names) on SQLite, then on PostgreSQL."""
    wanted = [each for each in operations() if not only or any(word in each.name for word in only)]
    sizes = (few, many)
    with sqlite_backend_of_size(few) as short, sqlite_backend_of_size(many) as long:
        yield from _readings(wanted, filled(short), filled(long))
    with postgres_backends(sizes, beside) as (shorter, longer):
        yield from _readings(wanted, filled(shorter), filled(longer))
        yield from _readings(wanted, shorter.use_generic_plans(), longer.use_generic_plans())


def _readings(wanted: Iterable[Operation], short: Backend, long: Backend) -> Iterator[Reading]:
    for operation in wanted:
        few, many = (backend.read(operation.call) for backend in (short, long))
        yield Reading(operation, short.label, short.unit, short.slack, (short.size, long.size), few, many)


def _aim(reading: Reading) -> Aim:
    return Aim(f"{reading.operation.at_worst}: is {reading.verdict}", lambda _: not reading.is_worse)


def run(seconds: float) -> list[Row]:
    """The readings as rows of the report. How long it takes does not matter."""
    return [
        Row(
            f"growth {reading.label}: {reading.operation.name}",
            f"{reading.operation.name}, on {reading.label}, {reading.sizes[1]:,} rows",
            f"the same with {reading.sizes[0]:,}",
            Timing((float(max(1, reading.many)),)),
            Timing((float(max(1, reading.few)),)),
            _aim(reading),
            reading.unit,
        )
        for reading in measure()
    ]
