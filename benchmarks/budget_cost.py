"""The cost of budgets: a governed action on PostgreSQL that they limit, against the same one without, with and without
an idempotency key, by one worker and by four whose actors differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from actionengine import Actor, Budget
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks.postgres import PAYLOAD, PERMISSION, UNKEYED, Application, application, database
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import Call, take_samples
from benchmarks.workers import WARM_UP, in_threads, number_of

WORKERS = (1, 4)
_CALLS = 40
"""In one slice, by all workers together."""

_DAY = timedelta(days=1)
_MANY = 10**12
_BUDGETS: dict[str, list[Budget]] = {
    "0": [],
    "1": [Budget("calls", actions="payments.*", limit=_MANY, window=_DAY)],
    "3": [
        Budget("calls", actions="payments.*", limit=_MANY, window=_DAY),
        Budget("money", actions="payments.*", per="principal", limit=_MANY, unit="input.amount", window=_DAY),
        Budget("all calls", limit=_MANY, per="actor", window=timedelta(hours=1)),
    ],
}


def run(seconds: float) -> list[Row]:
    """Each number of workers and of budgets, with and without a key."""
    rows: list[Row] = []
    with database() as made:
        for workers in WORKERS:
            with PostgresStorage(made.app_url, pool_size=workers, max_overflow=0) as storage:
                apps = {number: application(storage, budgets) for number, budgets in _BUDGETS.items()}
                for name, action, how in (("keyed", "refund", "with a key"), ("unkeyed", UNKEYED, "without one")):
                    measures: dict[str, Callable[[], float]] = {}
                    for number, app in apps.items():
                        calls = [_call(app, action, worker) for worker in range(workers)]
                        in_threads(calls, WARM_UP)
                        measures[number] = partial(in_threads, calls, _CALLS // workers)
                    times = take_samples(measures, seconds / (2 * len(WORKERS)))
                    rows += [
                        Row(
                            f"budget_cost_{number}_{name}_{workers}",
                            f"governed action on PostgreSQL {how}, {number_of(workers)}, budgets: {number}",
                            "the same without a budget",
                            times[number],
                            times["0"],
                            at_most_ratio(1.15) if number == "1" else None,
                        )
                        for number in ("1", "3")
                    ]
    return rows


def _call(app: Application, action: str, worker: int) -> Call:
    actor = Actor.human(f"clara-{worker}", permissions=[PERMISSION])

    def call() -> object:
        request = replace(app.request(), actor=actor)
        return app.engine.execute_action("payments", action, PAYLOAD, request).unwrap()

    return call
