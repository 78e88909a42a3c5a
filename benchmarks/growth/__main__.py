"""`python -m benchmarks.growth [--few N] [--many N] [--only WORD ...]`."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.growth import FEW, MANY, measure

_WIDTH = 140


def main() -> int:
    """Print the readings; 1 where a verdict is worse than the recorded one."""
    parser = argparse.ArgumentParser("python -m benchmarks.growth", description="What grows with what was done before")
    parser.add_argument("--few", type=int, default=FEW, help=f"rows of the short tables (default: {FEW:,})")
    parser.add_argument("--many", type=int, default=MANY, help=f"rows of the long tables (default: {MANY:,})")
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD", help="of the names of operations")
    options = parser.parse_args()
    table = Table(title=f"What is read with {options.few:,} and with {options.many:,} rows of what should not matter")
    for heading in ("operation", "label"):
        table.add_column(heading)
    for heading in ("read", "with many", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("verdict", "recorded"):
        table.add_column(heading)
    worse = 0
    for reading in measure(options.few, options.many, options.only):
        worse += reading.is_worse
        colour = "red" if reading.is_worse else "green"
        table.add_row(
            reading.operation.name,
            reading.label,
            f"{reading.few:,} {reading.unit}",
            f"{reading.many:,}",
            f"{reading.ratio:.2f}",
            f"[{colour}]{reading.verdict}[/]",
            reading.operation.at_worst,
        )
    # A file or a pipe has no width of its own.
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
