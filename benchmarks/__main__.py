"""`python -m benchmarks [--json] [--only NAME ...] [--seconds S] [--log-rows N] [--merge-ops N]`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from benchmarks import (
    bare_pipeline,
    boot,
    boundary_checks,
    budget_cost,
    catalogue,
    change_merge,
    console_log_search,
    document_guard,
    event_cost,
    full_pipeline,
    governed_peers,
    governed_postgres,
    growth,
    idle_memory,
    import_time,
    log_growth,
    log_search,
    preview_cost,
    relay_drain,
    relay_latency,
    relay_relays,
    routing,
    runner_queue,
    tool_calls,
    workflow_steps,
)
from benchmarks.report import Row, amount

BENCHMARKS: Mapping[str, Callable[..., list[Row]]] = {
    "full_pipeline": full_pipeline.run,
    "bare_pipeline": bare_pipeline.run,
    "routing": routing.run,
    "import_time": import_time.run,
    "boot": boot.run,
    "catalogue": catalogue.run,
    "governed_postgres": governed_postgres.run,
    "governed_peers": governed_peers.run,
    "log_growth": log_growth.run,
    "log_search": log_search.run,
    "console_log_search": console_log_search.run,
    "growth": growth.run,
    "idle_memory": idle_memory.run,
    "relay_drain": relay_drain.run,
    "relay_relays": relay_relays.run,
    "relay_latency": relay_latency.run,
    "event_cost": event_cost.run,
    "change_merge": change_merge.run,
    "document_guard": document_guard.run,
    "workflow_steps": workflow_steps.run,
    "boundary_checks": boundary_checks.run,
    "runner_queue": runner_queue.run,
    "budget_cost": budget_cost.run,
    "preview_cost": preview_cost.run,
    "tool_calls": tool_calls.run,
}

_WIDTH = 140


def main() -> None:
    """Run the benchmarks that are asked for, and print their rows."""
    options = _arguments()
    progress = Console(stderr=True)
    logs = dict.fromkeys(("log_growth", "log_search", "console_log_search"), options.log_rows)
    many = {**logs, "change_merge": options.merge_ops}
    rows: list[Row] = []
    for name in options.only or BENCHMARKS:
        with progress.status(name):
            more = {"many": many[name]} if name in many else {}
            rows += BENCHMARKS[name](options.seconds, **more)
    if options.json:
        json.dump({"python": platform.python_version(), "rows": [row.to_dict() for row in rows]}, sys.stdout, indent=2)
        print()
    else:
        # A file or a pipe has no width of its own.
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(_table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="What the library costs, beside its peers")
    parser.add_argument("--json", action="store_true", help="machine-readable, times in seconds, memory in KB")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each benchmark takes, about (default: 5)")
    parser.add_argument(
        "--log-rows",
        type=int,
        default=log_growth.MANY,
        help=f"of the benchmarks of logs (default: {log_growth.MANY:,})",
    )
    parser.add_argument(
        "--merge-ops", type=int, default=change_merge.MANY, help=f"of change_merge (default: {change_merge.MANY:,})"
    )
    return parser.parse_args()


def _table(rows: list[Row]) -> Table:
    table = Table(title=f"Python {platform.python_version()}: median (fastest) of interleaved rounds", show_lines=True)
    table.add_column("what")
    table.add_column("against")
    for heading in ("ours", "peer", "ratio", "more"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("aim", "met?"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.what,
            row.against,
            f"{amount(row.ours.median, row.unit)}\n({amount(row.ours.min, row.unit)})",
            f"{amount(row.peer.median, row.unit)}\n({amount(row.peer.min, row.unit)})",
            f"{row.ratio:.2f}",
            amount(row.more, row.unit),
            row.aim.text if row.aim else "",
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[row.met],
        )
    return table


if __name__ == "__main__":
    main()
