"""The cost of merging a change on PostgreSQL: against its ops, against the record types that it touches, and at once.

Each merge is of a change of its own, drafted untimed: the ops give fields another label, so that schemas stay as large
as they are. Statements are counted where they are handed to the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

from uuid_utils import uuid7

from actionengine import Actor, Engine, RequestContext, Tenant, create_engine
from actionengine.changes import change_control_services
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.port import UnitOfWork
from actionengine.storage.postgres.driver import LibpqConnection
from actionengine.storage.postgres.storage import PostgresStorage
from actionengine.storage.tables import PATCH_OPS, RECORD_TYPES, TARGETS
from actionengine.storage.tables import Row as TableRow
from benchmarks.postgres import database
from benchmarks.report import Aim, Row
from benchmarks.timing import Timing, take_samples
from benchmarks.workers import in_threads

FEW = 10
MANY = 1000
"""Ops, or record types, of the smallest and of the largest change."""

PARALLEL = 4
_NUMBERS = count(1)


class Project:
    """A project with record types, and an engine to merge its changes with."""

    def __init__(self, storage: PostgresStorage, types: int, fields: int) -> None:
        self.storage = storage
        self.tenant: Tenant = storage.create_tenant(slug=f"acme-{uuid7()}", name="Acme")
        self.engine: Engine = create_engine(services=change_control_services(), storage=storage)
        self.request = RequestContext(tenant=self.tenant, actor=Actor.human("ann", permissions=["changes.*"]))
        self.types = types
        self.fields = fields
        self.id = self.do("projects", "create", {"name": "Bench"}).id
        schema = {"fields": [{"name": f"field_{number}", "type": "string"} for number in range(fields)]}
        self._write(RECORD_TYPES, [self._record_type(number, schema) for number in range(types)])

    def do(self, service: str, action: str, payload: dict[str, Any]) -> Any:
        """The value of an action."""
        return self.engine.execute_action(service, action, payload, self.request).unwrap()

    def draft(self, ops: int, types: Sequence[int]) -> str:
        """A change with so many ops, spread over these types: each gives a field another label."""
        change = self.do("changes", "create", {"project_id": self.id, "title": "Labels"}).id
        at = self.do("changes", "get", {"change_id": change}).created_at
        own = {"change_id": change, "project_id": self.id, "created_at": at}
        targets = {
            number: {
                **own,
                "id": str(uuid7()),
                "type": "record_type",
                "selector": {"record_type_key": f"type_{number}"},
            }
            for number in types
        }
        label = f"label {next(_NUMBERS)}"
        versions = self._versions()
        rows = []
        for number in range(ops):
            type, field = types[number % len(types)], f"field_{number // len(types)}"
            definition = {"type": "string", "label": label}
            rows.append(
                {
                    **own,
                    "id": str(uuid7()),
                    "target_id": targets[type]["id"],
                    "position": number + 1,
                    "op_type": "set_field",
                    "payload": {"record_type": f"type_{type}", "field": field, "definition": definition},
                    "record_type_key": f"type_{type}",
                    "field": field,
                    "gives": None,
                    "record_type_version": versions[f"type_{type}"],
                    "applied_version": None,
                    "previous_snapshot": None,
                    "executed_at": None,
                }
            )
        self._write(TARGETS, list(targets.values()))
        self._write(PATCH_OPS, rows)
        return str(change)

    def merge(self, change: str) -> int:
        """Merge a change; how many ops were applied."""
        applied: int = self.do("changes", "merge", {"change_id": change}).applied_count
        return applied

    def _record_type(self, number: int, schema: dict[str, Any]) -> TableRow:
        at = self.do("projects", "get", {"project_id": self.id}).created_at
        return {
            "id": str(uuid7()),
            "project_id": self.id,
            "key": f"type_{number}",
            "name": f"Type {number}",
            "description": "",
            "base_type": None,
            "schema": schema,
            "initial_schema": schema,
            "version": 1,
            "base_version": 1,
            "bytes_since_base": 0,
            "status": "draft",
            "changed_by": None,
            "created_at": at,
            "updated_at": at,
        }

    def _versions(self) -> dict[str, int]:
        async def read(unit_of_work: UnitOfWork) -> dict[str, int]:
            rows = await unit_of_work.rows(RECORD_TYPES).find(columns=("key", "version"))
            return {row["key"]: row["version"] for row in rows}

        versions: dict[str, int] = self._in_unit(read)
        return versions

    def _write(self, table: Any, rows: list[TableRow]) -> None:
        self._in_unit(lambda unit_of_work: unit_of_work.rows(table).insert(rows))

    def _in_unit(self, work: Callable[[UnitOfWork], Any]) -> Any:
        async def run() -> Any:
            unit_of_work = self.storage.unit_of_work(self.tenant, str(uuid7()), "sync")
            answer = await work(unit_of_work)
            await unit_of_work.commit()
            return answer

        return run_sync(run())


def run(seconds: float, many: int = MANY) -> list[Row]:
    """Statements, then ops, then types, then several at once; the largest change is of so many ops, or types."""
    with database() as made:
        storage = PostgresStorage(made.app_url, pool_size=PARALLEL, max_overflow=0)
        each = seconds / 3
        sizes = [size for size in (FEW, 100, MANY) if size < many] + [many]
        rows = [
            _statements(storage, many),
            *_ops(storage, sizes, each),
            *_types(storage, sizes, each),
            _parallel(storage, each),
        ]
        storage.close()
    return rows


def _statements(storage: PostgresStorage, many: int) -> Row:
    """Many ops on a tenth as many types, against few on as many."""

    def count_statements(ops: int, types: int) -> Timing:
        project = Project(storage, types, ops // types)
        change = project.draft(ops, range(types))
        with _counting() as statements:
            project.merge(change)
        return Timing((float(len(statements)),))

    return Row(
        "change_merge_statements",
        f"merging {many:,} ops on {many // 10} record types, statements",
        f"{FEW} ops on {FEW} record types",
        count_statements(many, many // 10),
        count_statements(FEW, FEW),
        Aim("the same number", lambda row: row.ratio == 1),
        "statements",
    )


@contextmanager
def _counting() -> Iterator[list[str]]:
    seen: list[str] = []
    execute = LibpqConnection.execute

    def counted(driver: Any, *statements: Any, **options: Any) -> Any:
        seen.extend([*options.get("first", ()), *(text for text, _ in statements)])
        return execute(driver, *statements, **options)

    LibpqConnection.execute = counted  # type: ignore[assignment, method-assign]
    try:
        yield seen
    finally:
        LibpqConnection.execute = execute  # type: ignore[method-assign]


def _ops(storage: PostgresStorage, sizes: Sequence[int], seconds: float) -> list[Row]:
    """Ops on a few types, which have a field for each."""
    project = Project(storage, FEW, sizes[-1] // FEW)
    times = take_samples({str(ops): partial(_timed, project, ops, FEW) for ops in sizes}, seconds)
    return [
        Row(
            f"change_merge_{ops}_ops",
            f"merging {ops:,} ops on {FEW} record types",
            f"{FEW} ops on them",
            times[str(ops)],
            times[str(FEW)],
        )
        for ops in sizes[1:]
    ]


def _types(storage: PostgresStorage, sizes: Sequence[int], seconds: float) -> list[Row]:
    """An op on each of so many types, of ten fields each, in a project that has the most of them."""
    project = Project(storage, sizes[-1], FEW)
    times = take_samples({str(types): partial(_timed, project, types, types) for types in sizes}, seconds)
    return [
        Row(
            f"change_merge_{types}_types",
            f"merging an op on each of {types:,} record types",
            f"of {FEW} record types",
            times[str(types)],
            times[str(FEW)],
        )
        for types in sizes[1:]
    ]


def _timed(project: Project, ops: int, types: int) -> float:
    change = project.draft(ops, range(types))
    started = perf_counter()
    project.merge(change)
    return perf_counter() - started


def _parallel(storage: PostgresStorage, seconds: float) -> Row:
    """Changes of disjoint types, merged in threads at once."""
    share = 25
    project = Project(storage, PARALLEL * share, FEW)

    def measure(workers: int) -> float:
        changes = iter([project.draft(share, range(each * share, (each + 1) * share)) for each in range(PARALLEL)])
        return in_threads([lambda: project.merge(next(changes))] * workers, PARALLEL // workers)

    times = take_samples({str(workers): partial(measure, workers) for workers in (1, PARALLEL)}, seconds)
    return Row(
        "change_merge_parallel",
        f"merging changes of disjoint record types in {PARALLEL} threads, a change",
        "in 1 thread",
        times[str(PARALLEL)],
        times["1"],
    )
