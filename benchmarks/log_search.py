"""Searches of an action log of 1 000 000 rows, by each filter, rare and frequent, and the tree of causes.

A round is the 95th percentile of 40 calls through the engine, each with its rights and its own row on the log.

The rows are one tenant's. Each has a reason of five words: two are on all rows, one on every hundredth, two on a few. A
request has two rows, of which one has the other as its parent; each hundredth row waits for an approval.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import psycopg

from actionengine import Actor, RequestContext
from benchmarks.log_growth import MANY
from benchmarks.postgres import Application, database, with_workers
from benchmarks.report import Row, at_most
from benchmarks.timing import Call, settled, take_samples
from benchmarks.workers import WARM_UP

FEW = 1000
"""The length of the short log: a page examines as many rows."""

_LIMIT = 0.1
_CALLS = 40

# By a superuser, past row-level security and the triggers; the ids are spread over the last ten days.
_FILL = (
    """
INSERT INTO public.ae_action_log (tenant_id, id, parent_id, actor_type, actor_id, approval_id, source, reason, action,
    subjects, input, output, outcome, started_at, latency, idempotency_key, request_id)
SELECT %(tenant)s, id, CASE WHEN number %% 2 = 0 THEN lag(id) OVER (ORDER BY number) END, 'human',
    'actor-' || number %% 1000, CASE WHEN number %% 100 = 0 THEN 'approval-' || number END, 'http',
    'Refund for ticket ' || number || CASE WHEN number %% 100 = 0 THEN ' urgent' ELSE '' END, 'payments.refund',
    json_build_array('jobs/' || number %% 1000), '{"job": "17", "amount": 50.0}', '{"id": "17"}', 'succeeded',
    now() + age, 0.001, 'old-' || number, 'request-' || (number + 1) / 2
FROM (
    SELECT number, age, uuidv7(age) AS id
    FROM (
        SELECT number, interval '-10 days' * (%(rows)s - number + 1) / %(rows)s AS age
        FROM generate_series(1, %(rows)s) number
    ) numbered
) old
""",
    """
INSERT INTO public.ae_action_log_subjects (tenant_id, subject, log_id)
SELECT tenant_id, subjects ->> 0, id
FROM public.ae_action_log
WHERE tenant_id = %(tenant)s AND idempotency_key LIKE 'old-%%'
ORDER BY 2, 3
""",
    """
INSERT INTO public.ae_action_log_words (tenant_id, word, log_id)
SELECT tenant_id, word, id
FROM public.ae_action_log, regexp_split_to_table(lower(reason), ' ') word
WHERE tenant_id = %(tenant)s AND idempotency_key LIKE 'old-%%'
ORDER BY 2, 3
""",
)

SEARCHES: dict[str, dict[str, Any]] = {
    "request": {"request_id": "request-400"},
    "parent": {},
    "approval": {"approval_id": "approval-800"},
    "key": {"idempotency_key": "old-800"},
    "rare_word": {"text": "800"},
    "some_word": {"text": "urgent"},
    "frequent_word": {"text": "refund"},
    "frequent_words": {"text": "refund for ticket"},
    "rare_among_frequent": {"text": "refund ticket 800"},
    "word_and_subject": {"text": "urgent", "subject": "jobs/0"},
    "word_and_actor": {"text": "refund", "actor_id": "actor-7"},
    "word_and_no_outcome": {"text": "refund", "outcome": "denied"},
    "words_and_no_match": {"text": "refund ticket for", "outcome": "denied", "action": "payments.refund"},
    "no_match": {"actor_id": "nobody", "text": "absent"},
    "whole_page": {"text": "ticket", "limit": 1000},
}
"""The filters of the listings, by name. The parent is one of the log's."""


def run(seconds: float, many: int = MANY) -> list[Row]:
    """Each search in a long log, against the same in a short one on the same server."""
    with database() as long, database(long) as short:
        apps = [filled(long.app_url, long.superuser_url, many), filled(short.app_url, short.superuser_url, FEW)]
        rows = [_row(name, apps, many, seconds / (len(SEARCHES) + 1)) for name in (*SEARCHES, "tree")]
        for app, _ in apps:
            app.storage.close()
    return rows


def filled(app_url: str, superuser_url: str, rows: int) -> tuple[Application, str]:
    """Return an application with a log of so many rows, and a row of it that has executed another one."""
    app = with_workers(app_url, 1)
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in _FILL:
            connection.execute(statement.encode(), {"tenant": app.tenant.id, "rows": rows})
        connection.execute("VACUUM ANALYZE")
        parent = connection.execute(
            "SELECT parent_id::text FROM public.ae_action_log WHERE idempotency_key = 'old-800'"
        ).fetchone()
    assert parent is not None
    return app, parent[0]


def _row(name: str, apps: list[tuple[Application, str]], many: int, seconds: float) -> Row:
    calls = {length: _call(name, *app) for length, app in zip(("many", "few"), apps, strict=True)}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times = take_samples({length: partial(percentile, call) for length, call in calls.items()}, seconds)
    what = "action_log.tree" if name == "tree" else f"action_log.list by {SEARCHES[name] or 'parent_id'}"
    return Row(
        f"log_search_{name}",
        f"{what}, {many:,} rows: 95th percentile",
        f"the same with {FEW:,}",
        times["many"],
        times["few"],
        at_most(_LIMIT),
    )


def _call(name: str, app: Application, parent: str) -> Call:
    execute, operator = app.engine.execute_action, RequestContext(tenant=app.tenant, actor=Actor.system())
    if name == "tree":
        return lambda: execute("action_log", "tree", {"id": parent}, operator).unwrap()
    asked = {"limit": 50, **(SEARCHES[name] or {"parent_id": parent})}
    return lambda: execute("action_log", "list", asked, operator).unwrap()


def percentile(call: Callable[[], object]) -> float:
    """Return the 95th percentile of the calls: the second longest of 40."""
    times = []
    with settled():
        for _ in range(_CALLS):
            started = perf_counter()
            call()
            times.append(perf_counter() - started)
    return sorted(times)[int(_CALLS * 0.95)]
