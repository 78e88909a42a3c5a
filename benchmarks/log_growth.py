"""The cost of a long action log: a governed action and `action_log.list` with 1 000 000 rows against the same with few.

The rows are one tenant's, and have one subject each, with ids in order of time. Each subject and each actor has 100 of
them, so that a page is as long in the short log, which has one of each. Our own refunds and listings add a few rows to
both logs; the listings page on from before those: a listing's row has its output, and so one listing after another of
the very newest page would measure pages of pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from uuid_utils import uuid7

from actionengine import Actor, RequestContext
from benchmarks.postgres import PAYLOAD, Application, Bench, database, with_workers
from benchmarks.report import Row, at_most_ratio
from benchmarks.timing import FEWEST_ROUNDS, Call, take_samples
from benchmarks.workers import WARM_UP, in_threads

MANY = 1_000_000
FEW = 100
"""Rows of a subject and of an actor, and so the length of the short log."""

_PAGE = 20
_MAX_CALLS = 200
_NOISE = 1.2

# By a superuser, past row-level security; the ids are spread over the last ten days, as far as there are so many.
_FILL_LOG = """
INSERT INTO public.ae_action_log (tenant_id, id, actor_type, actor_id, source, action, subjects, input, output, outcome,
    decision, started_at, latency, idempotency_key)
SELECT %(tenant)s, uuidv7(age), 'human', 'actor-' || number %% %(groups)s, 'http', 'payments.refund',
    json_build_array('jobs/' || number %% %(groups)s), '{"job": "17", "amount": 50.0}',
    '{"id": "17", "job": "17", "amount": 50.0}', 'succeeded', 'role csr', now() + age, 0.001, 'old-' || number
FROM (
    SELECT number, interval '-10 days' * (%(rows)s - number + 1) / %(rows)s AS age
    FROM generate_series(1, %(rows)s) number
) old
"""
_FILL_SUBJECTS = """
INSERT INTO public.ae_action_log_subjects (tenant_id, subject, log_id)
SELECT tenant_id, subjects ->> 0, id
FROM public.ae_action_log
WHERE tenant_id = %(tenant)s AND idempotency_key LIKE 'old-%%'
"""

_LISTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "subject": ("action_log.list by subject", {"subject": "jobs/0"}),
    "actor": ("action_log.list by actor", {"actor_id": "actor-0"}),
    "newest": ("action_log.list, the newest page", {}),
}


@dataclass(frozen=True, slots=True)
class Log:
    """A log that has been filled, and an id that is newer than all in it."""

    app: Application
    end: str


def run(seconds: float, many: int = MANY) -> list[Row]:
    """A refund, and three listings; each log is in a database of its own on one server."""
    with database() as long, database(long) as short:
        logs = {"many": _filled(long, many), "few": _filled(short, FEW)}
        calls: list[tuple[str, str, Callable[[Log], Call]]] = [
            ("action", "governed action", _refund),
            *((name, what, partial(_listing, arguments=listed)) for name, (what, listed) in _LISTINGS.items()),
        ]
        rows = [_row(logs, name, what, many, call, seconds / len(calls)) for name, what, call in calls]
        for each in logs.values():
            each.app.storage.close()
    return rows


def _row(logs: dict[str, Log], name: str, what: str, many: int, call: Callable[[Log], Call], seconds: float) -> Row:
    workers = {length: [call(each)] for length, each in logs.items()}
    for worker in workers.values():
        in_threads(worker, WARM_UP)
    fitting = int(seconds / FEWEST_ROUNDS / len(workers) / in_threads(workers["many"], 1))
    each = max(1, min(_MAX_CALLS, fitting))
    times = take_samples({length: partial(in_threads, worker, each) for length, worker in workers.items()}, seconds)
    return Row(
        f"log_growth_{name}",
        f"{what}, {many:,} rows in the log",
        f"the same with {FEW}",
        times["many"],
        times["few"],
        at_most_ratio(_NOISE),
    )


def _filled(made: Bench, rows: int) -> Log:
    app = with_workers(made.app_url, 1)
    parameters = {"tenant": app.tenant.id, "rows": rows, "groups": max(1, rows // FEW)}
    with psycopg.connect(made.superuser_url, autocommit=True) as connection:
        connection.execute(_FILL_LOG, parameters)
        connection.execute(_FILL_SUBJECTS, parameters)
        connection.execute("VACUUM ANALYZE")
    return Log(app, str(uuid7()))


def _refund(log: Log) -> Call:
    execute, request = log.app.engine.execute_action, log.app.request
    return lambda: execute("payments", "refund", PAYLOAD, request()).unwrap()


def _listing(log: Log, arguments: dict[str, Any]) -> Call:
    execute, operator = log.app.engine.execute_action, RequestContext(tenant=log.app.tenant, actor=Actor.system())
    listed = {**arguments, "before": log.end, "limit": _PAGE}

    def call() -> object:
        page = execute("action_log", "list", listed, operator).unwrap()
        if len(page.items) != _PAGE:
            raise AssertionError(f"{listed} gave {len(page.items)} rows")
        return page

    return call
