"""Break the parts that are named, or all, and say what the tests beside them have noticed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.mutation.parts import Mutant, Part, all_parts, survivors
from tests.mutation.python import python_mutants
from tests.mutation.text import by_hand, sql_mutants
from tests.mutation.workbench import postgres, workbench

LEAST = 90
"""Per cent of the mutants of a part that its tests have to notice."""


def main(wanted: list[str]) -> int:
    """The exit status: 0 where enough was noticed, and every survivor is known."""
    named = dict(each.partition(":")[::2] for each in wanted)
    parts = [
        replace(part, functions=tuple(named[part.name].split(","))) if named.get(part.name) else part
        for part in all_parts()
        if not wanted or part.name in named
    ]
    known = survivors()
    lived: set[tuple[str, str, str]] = set()
    failed = False
    print(f"{'part':<24}{'mutants':>8}{'noticed':>9}{'':>8}{'seconds':>9}")
    with workbench() as root, contextlib.ExitStack() as open:
        if any(part.postgres for part in parts):
            open.enter_context(postgres(root))
        runs: list[tuple[str, Iterable[Mutant]]] = [(part.name, _mutants(root, part)) for part in parts]
        if not wanted or "by_hand" in named:
            runs.append(("by_hand", by_hand(root)))
        for name, mutants in runs:
            started = time.monotonic()
            tried = noticed = strangers = 0
            for mutant in mutants:
                tried += 1
                noticed += mutant.killed
                key = (name, mutant.where, mutant.change)
                if not mutant.killed:
                    lived.add(key)
                if not mutant.killed and key not in known:
                    strangers += 1
                    print(f"  no test notices, in {mutant.where} of {name}: {mutant.change}", flush=True)
            share = 100 * noticed / tried if tried else 0
            took = time.monotonic() - started
            print(f"{name:<24}{tried:>8}{noticed:>9}{share:>7.1f}%{took:>9.0f}", flush=True)
            failed = failed or share < LEAST or strangers > 0
    names = {name for name, _ in runs if not named.get(name)}
    for part, where, change in sorted(key for key in known if key[0] in names and key not in lived):
        print(f"survivors.toml names what is noticed by now, or is gone, in {where} of {part}: {change}")
    return int(failed)


def _mutants(root: Path, part: Part) -> Iterable[Mutant]:
    return python_mutants(root, part) if part.is_python else sql_mutants(root, part)


if __name__ == "__main__":
    os.nice(19)
    sys.exit(main(sys.argv[1:]))
