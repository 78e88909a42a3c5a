"""Text for a terminal: stored texts escaped, lines as wide as the terminal, times and ages."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.text import Text

DEFAULT_WIDTH = 80
MIN_WIDTH = 40
MAX_LISTED_LENGTH = 500
"""Characters of a text in a list, at most. The command that shows one thing has all of them."""

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that move the cursor, break lines, or change the direction of writing."""


def escape(text: object) -> str:
    r"""Return a text in one line, without characters that control a terminal: each is written as `\x1b` or `\u202e`."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(_escaped(each) if unicodedata.category(each) in _UNSAFE else each for each in plain)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def width() -> int:
    """Return the columns of the terminal: `COLUMNS`, or those that it reports; 80 without one, and 40 at least."""
    return max(MIN_WIDTH, shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns)


def wrap(text: str, indent: int = 0) -> list[str]:
    """Return an escaped text as indented lines that fit the terminal. A word that fits into a line is whole."""
    columns = width() - indent
    lines = Text(text).wrap(Console(width=columns), columns, overflow="fold")
    return [f"{' ' * indent}{line.plain.rstrip()}" for line in lines] or [""]


def write(*lines: str) -> None:
    """Print lines that are escaped already. A character that the output cannot encode is escaped."""
    for line in lines:
        typer.echo(encodable(line))


def write_block(title: str, details: Iterable[str], indent: int = 0) -> None:
    """Print a block: its title, and below it the details, which are indented. All of them are escaped here."""
    write(*wrap(escape(title), indent))
    for detail in details:
        write(*wrap(escape(detail), indent + 2))


def shortened(text: str) -> str:
    """Return the part of a text that a list shows."""
    return text if len(text) <= MAX_LISTED_LENGTH else f"{text[:MAX_LISTED_LENGTH]}..."


def encodable(text: str) -> str:
    """Return a text without characters that standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def iso(time: datetime) -> str:
    """Return a time in UTC, in ISO 8601, to the second."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def age(time: datetime, now: datetime | None = None) -> str:
    """Return the distance of a time from now, as in `3 min ago` or `in 2 h`."""
    seconds = ((now or datetime.now(UTC)) - time).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Return a number of seconds in the largest unit that fits it."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
