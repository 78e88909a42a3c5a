"""A peer in a process of its own: `python peer_program.py PEER DATABASE_URL SYSTEM_URL`.

Each line that it reads is `{"workers": …, "calls": …}`, and each line that it prints is `{"seconds": …}`, a call. It is
run by the interpreter of the peers' environment, which has neither this project nor its dependencies.
"""

from __future__ import annotations

import contextvars
import gc
import json
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from itertools import count
from time import perf_counter
from typing import Any
from uuid import uuid4

import psycopg

Call = Callable[[str, str], object]

_INSERT = "INSERT INTO bench_refunds (tenant_id, id, version, data) VALUES (%s, %s, 1, %s)"
_POOL = {"pool_size": 16}
_POOL_OF_DBOS = {"sys_db_pool_size": 16}


def dbos(url: str, system_url: str) -> Call:
    """A workflow with one transaction step, which inserts one row; the workflow's id is the idempotency key."""
    from sqlalchemy import text

    library: Any = import_module("dbos")
    library.DBOS(config={"name": "bench", "system_database_url": system_url, "log_level": "ERROR", **_POOL_OF_DBOS})
    source = library.SQLAlchemyDatasource.create(url.replace("postgresql://", "postgresql+psycopg://", 1), _POOL)
    statement = text(
        "INSERT INTO bench_refunds (tenant_id, id, version, data) VALUES (:tenant_id, :id, 1, CAST(:data AS json))"
    )

    def insert(tenant: str, job: str, amount: float) -> str:
        id = str(uuid4())
        data = json.dumps({"job": job, "amount": amount})
        source.sql_session().execute(statement, {"tenant_id": tenant, "id": id, "data": data})
        return id

    step = source.transaction()(insert)

    def refund(tenant: str, job: str, amount: float) -> dict[str, Any]:
        return {"id": step(tenant, job, amount), "job": job, "amount": amount}

    workflow = library.DBOS.workflow()(refund)
    library.DBOS.launch()

    def call(tenant: str, key: str) -> object:
        with library.SetWorkflowID(key):
            return workflow(tenant, "17", 50.0)

    return call


def airlock(url: str, system_url: str) -> Call:
    """A guarded function that its policy lets run, and which inserts one row; its ledger and its audit are in the same
    database. Each worker writes in a connection of its own."""
    library: Any = import_module("airlock")
    policy = library.Policy(rules=[library.Rule(match="payment.*", decision=library.Decision.AUTO)])
    library.init(store=_ledger(url), policy=policy)
    worker = threading.local()

    def refund(tenant: str, job: str, amount: str, key: str, downstream_key: str | None = None) -> dict[str, Any]:
        if not hasattr(worker, "connection"):
            worker.connection = psycopg.connect(url, autocommit=True)
        id = str(uuid4())
        parameters = (tenant, id, json.dumps({"job": job, "amount": amount}))
        worker.connection.execute(_INSERT, parameters, prepare=True)
        return {"id": id, "job": job, "amount": amount}

    effect = library.Effect(key_param="downstream_key")
    guarded = library.guard("payment.refund", key=_key_of, effect=effect)(refund)
    return lambda tenant, key: guarded(tenant, "17", "50.00", key=key)


def _key_of(tenant: str, job: str, amount: str, key: str) -> str:
    return key


def _ledger(url: str) -> Any:
    store = import_module("airlock.store").from_url(url)
    store.ensure_schema()
    return store


class Crew:
    """Threads that stay, so that a connection which belongs to a thread stays too."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tenant, self._keys = str(uuid4()), count()
        self._threads: list[tuple[threading.Semaphore, list[int]]] = []
        self._done = threading.Semaphore(0)
        self._errors: list[BaseException] = []

    def time(self, workers: int, calls: int) -> float:
        """Seconds a call when so many workers make so many calls each."""
        while len(self._threads) < workers:
            wake, todo = threading.Semaphore(0), [0]
            self._threads.append((wake, todo))
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self._work, wake, todo), daemon=True).start()
        gc.collect()
        started = perf_counter()
        for wake, todo in self._threads[:workers]:
            todo[0] = calls
            wake.release()
        for _ in range(workers):
            self._done.acquire()
        taken = perf_counter() - started
        if self._errors:
            raise self._errors[0]
        return taken / (workers * calls)

    def _work(self, wake: threading.Semaphore, todo: list[int]) -> None:
        while True:
            wake.acquire()
            try:
                for _ in range(todo[0]):
                    self._call(self._tenant, f"{self._tenant}-{next(self._keys)}")
            except BaseException as error:
                self._errors.append(error)
            self._done.release()


def main() -> None:
    peer, url, system_url = sys.argv[1:]
    crew = Crew({"dbos": dbos, "airlock": airlock}[peer](url, system_url))
    # What a peer prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        seconds = crew.time(question["workers"], question["calls"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
