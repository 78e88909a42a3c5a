"""The memory of an idle engine: resident memory, in a fresh process with many of them.

An engine with one service of one action (and the built-in ones); on `InMemoryStorage`, on a `PostgresStorage` that has
not connected yet, against a lato application with one handler; and a pooled connection that is idle after a few
executions, against one of psycopg's after as many by hand. Memory is the growth of the process's resident set, without
the first few, which load the modules.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.by_hand import make_tables
from benchmarks.postgres import database
from benchmarks.report import Row
from benchmarks.timing import take_samples

ENGINES = 300
CONNECTIONS = 40
"""Of a server that takes 100."""

_PROGRAM = """
import gc, sys, psutil
from benchmarks import idle_memory_contenders

def resident():
    gc.collect()
    return psutil.Process().memory_info().rss

make = getattr(idle_memory_contenders, sys.argv[1])(*sys.argv[3:])
kept = [make() for _ in range(10)]
before = resident()
kept += [make() for _ in range(int(sys.argv[2]))]
print((resident() - before) / int(sys.argv[2]) / 1024)
"""


def run(seconds: float) -> list[Row]:
    """Engines, then connections."""
    with database() as made:
        make_tables(made)
        engines = {
            name: partial(_kilobytes, name, ENGINES, made.app_url) for name in ("in_memory", "on_postgres", "peer")
        }
        memory = take_samples(engines, seconds / 2, fewest=1)
        connections = {name: partial(_kilobytes, name, CONNECTIONS, made.app_url) for name in ("pooled", "bare")}
        memory |= take_samples(connections, seconds / 2, fewest=1)
    lato = "a lato application with one handler"
    return [
        Row("idle_memory", "an engine on InMemoryStorage", lato, memory["in_memory"], memory["peer"], unit="KB"),
        Row(
            "idle_memory_postgres",
            "an engine on PostgresStorage, not connected",
            "an engine on InMemoryStorage",
            memory["on_postgres"],
            memory["in_memory"],
            unit="KB",
        ),
        Row(
            "idle_memory_connection",
            "a pooled connection after ten governed actions",
            "a connection of psycopg after ten by hand",
            memory["pooled"],
            memory["bare"],
            unit="KB",
        ),
    ]


def _kilobytes(contender: str, number: int, url: str) -> float:
    """Return the memory that each contender adds to a process."""
    command = (sys.executable, "-c", _PROGRAM, contender, str(number), url)
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
