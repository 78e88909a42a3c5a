"""SQL and breaks by hand: a text that is changed in one place, judged by the tests beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from tests.mutation.parts import HERE, Mutant, Part
from tests.mutation.sql import breaks
from tests.mutation.workbench import Judge


def sql_mutants(root: Path, part: Part) -> Iterator[Mutant]:
    """The mutants of the SQL of a part."""
    judge = Judge(root, part)

    def wanted(name: str) -> bool:
        return not part.functions or any(fnmatch(name, pattern) for pattern in part.functions)

    for broken in breaks((root / part.source).read_text(), wanted):
        yield Mutant(broken.where, broken.change, not judge.passes(broken.text))


def by_hand(root: Path) -> Iterator[Mutant]:
    """The breaks of `by_hand.toml`, each judged by the tests that it names."""
    sound: set[tuple[str, ...]] = set()
    for entry in tomllib.loads((HERE / "by_hand.toml").read_text())["break"]:
        part = Part("by_hand", entry["source"], tuple(entry["tests"]), suites=tuple(entry.get("suites", ())))
        whole = (root / part.source).read_text()
        if whole.count(entry["old"]) != 1:
            raise SystemExit(f"by_hand: {entry['what']!r} is about code that is not, or not once, in {part.source}")
        judge = Judge(root, replace(part, name=entry["what"]), is_sound=part.tests in sound)
        sound.add(part.tests)
        yield Mutant(part.source, entry["what"], not judge.passes(whole.replace(entry["old"], entry["new"])))
