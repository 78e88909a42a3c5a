"""The parts of the library that are broken, and the tests beside each, as `parts.toml` has them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Part:
    """A part that is mutated together: `source`, in it the `functions` (or SQL objects) whose names fit, or all of it.

    `tests` judge it, of those that a conformance suite brings the `suites` alone, and not those named in `without`.
    """

    name: str
    source: str
    tests: tuple[str, ...]
    functions: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    without: str = ""
    postgres: bool = False

    @property
    def is_python(self) -> bool:
        """True if mutmut mutates it."""
        return self.source.endswith(".py") and not self.is_statements

    @property
    def is_statements(self) -> bool:
        """True if it is SQL in a Python module."""
        return self.source.endswith("statements.py")


@dataclass(frozen=True)
class Mutant:
    """One break: where it is, what it changes, and whether a test has noticed."""

    where: str
    change: str
    killed: bool


def all_parts() -> list[Part]:
    """The parts, in the order in which they are tried."""
    found = tomllib.loads((HERE / "parts.toml").read_text())["part"]
    listed = ("tests", "functions", "suites")
    fields: list[dict[str, Any]] = [
        {key: tuple(value) if key in listed else value for key, value in part.items()} for part in found
    ]
    return [Part(**each) for each in fields]


def survivors() -> dict[tuple[str, str, str], str]:
    """The survivors that are known, by part, place and change: the reason of each."""
    found = tomllib.loads((HERE / "survivors.toml").read_text()).get("survivor", [])
    return {
        (group["part"], group["where"], change): group["reason"]
        for group in found
        for change in ([group["change"]] if "change" in group else group["changes"])
    }
