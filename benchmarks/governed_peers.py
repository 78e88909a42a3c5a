"""A governed action on PostgreSQL against two libraries that promise a part of it, on the same server.

DBOS Transact: a workflow with one transaction step, which inserts one row; its workflow id is the idempotency key. It
has no tenants, permissions, events or action log.

airlock: of the packages of this name the one whose `@guard` decides by a policy, commits a call once under an
idempotency key and writes an audit row, in PostgreSQL: `airlock-sdk`. Its guarded function inserts one row in a
connection of its own; the guard claims and finishes in two transactions around it.

The peers (`peers.txt`) are installed by this benchmark, beside our own environment, and each runs as a process of its
own (`peer_program.py`), which takes turns with ours; both connect as a superuser, while ours is the restricted role.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.postgres import PAYLOAD, database, with_workers
from benchmarks.report import Aim, Row, throughput_of
from benchmarks.timing import FEWEST_ROUNDS, take_samples
from benchmarks.workers import WARM_UP, in_threads, number_of

WORKERS = (1, 4, 16)
MAX_CALLS = 240
"""In one slice, by all workers together."""

PEERS: dict[str, tuple[str, Aim]] = {
    "dbos": ("a DBOS workflow with one transaction step", throughput_of(8)),
    "airlock": ("airlock's guard around one insert", throughput_of(3)),
}
PINS = Path(__file__).with_name("peers.txt")
PROGRAM = Path(__file__).with_name("peer_program.py")

_ENVIRONMENT = Path(sys.prefix) / "peers"

Measure = Callable[[int, int], float]
"""Seconds a call, of so many workers that make so many calls each."""


def run(seconds: float) -> list[Row]:
    """Each peer with each number of workers."""
    python = install()
    each = seconds / (len(PEERS) * len(WORKERS))
    rows: list[Row] = []
    with database() as made:
        system_url = made.superuser_url.replace("/bench_", "/dbos_", 1)
        for peer, (against, aim) in PEERS.items():
            with _started(python, peer, made.superuser_url, system_url) as measure:
                rows += [_row(made.app_url, peer, against, aim, measure, workers, each) for workers in WORKERS]
    return rows


def pins() -> list[str]:
    """The packages of the peers, as `name==version`."""
    return PINS.read_text().split()


def install() -> Path:
    """The interpreter of the peers' environment, which is made where it is missing or has other pins."""
    python, stamp = _ENVIRONMENT / "bin" / "python", _ENVIRONMENT / "installed.txt"
    if not stamp.exists() or stamp.read_text().split() != pins():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *pins()]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        stamp.write_text(PINS.read_text())
    return python


def _row(app_url: str, peer: str, against: str, aim: Aim, measure: Measure, workers: int, seconds: float) -> Row:
    app = with_workers(app_url, workers)
    execute = app.engine.execute_action
    ours = [lambda: execute("payments", "refund", PAYLOAD, app.request()).unwrap()] * workers
    in_threads(ours, WARM_UP)
    measure(workers, WARM_UP)
    fitting = int(seconds / FEWEST_ROUNDS / (in_threads(ours, 1) + measure(workers, 1)))
    calls = max(1, min(MAX_CALLS, fitting) // workers)
    times = take_samples({"ours": partial(in_threads, ours, calls), "peer": partial(measure, workers, calls)}, seconds)
    app.storage.close()
    return Row(
        f"governed_{peer}_{workers}",
        f"governed action on PostgreSQL: sync, {number_of(workers)}",
        against,
        times["ours"],
        times["peer"],
        aim,
    )


@contextmanager
def _started(python: Path, peer: str, url: str, system_url: str) -> Iterator[Measure]:
    command = [str(python), str(PROGRAM), peer, url, system_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def answer() -> dict[str, float]:
            line = answered.readline()
            if not line:
                raise RuntimeError(f"the peer {peer} has ended: exit code {process.wait()}")
            read: dict[str, float] = json.loads(line)
            return read

        def measure(workers: int, calls: int) -> float:
            print(json.dumps({"workers": workers, "calls": calls}), file=asked, flush=True)
            return answer()["seconds"]

        try:
            answer()
            yield measure
        finally:
            process.terminate()
