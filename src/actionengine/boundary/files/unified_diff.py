"""Unified diffs of texts: created, checked, and applied if they fit exactly.

Lines end only at a line feed, as in git: a carriage return, a form feed or a Unicode line separator is part of its
line. `unidiff` reads diffs; hunks are placed here, without fuzz.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from actionengine.errors import ActionError, ErrorCode

if TYPE_CHECKING:
    from unidiff.patch import Hunk, PatchedFile

NO_NEWLINE = "\\ No newline at end of file\n"
NOWHERE = "/dev/null"
CONTEXT = 3
"""Unchanged lines around a change."""

_MAX_COMPARED_LINES = 5_000 * 5_000
"""The limit of lines before times lines after, between the first and last difference; above it, one hunk has all."""

_MAX_SHOWN_LINES = 20
"""The lines of a hunk that an error shows."""

_PREFIX = re.compile(r"[abciow12]/")
_UNUSUAL = re.compile(r'["\\\x00-\x1f\x7f\udc80-\udcff]')
_ESCAPE = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


def unified_diff(before: str | None, after: str | None, path: str) -> str:
    """Return the diff of two texts in the form of `git diff`: `--- a/path`, `+++ b/path`, and hunks with three lines of
    context. None stands for a missing file (`/dev/null`). The diff of equal texts is empty."""
    if before == after:
        return ""
    old, new = _lines(before), _lines(after)
    parts = [
        f"--- {NOWHERE if before is None else shown_name(f'a/{path}')}\n",
        f"+++ {NOWHERE if after is None else shown_name(f'b/{path}')}\n",
    ]
    for group in _groups(old, new):
        parts.append(_header(group))
        for kind, old_start, old_end, new_start, new_end in group:
            if kind == "equal":
                parts += map(" ".__add__, old[old_start:old_end])
                continue
            parts += map("-".__add__, old[old_start:old_end])
            parts += map("+".__add__, new[new_start:new_end])
    return "".join(part if part.endswith("\n") else f"{part}\n{NO_NEWLINE}" for part in parts)


def check_diff(diff: str, path: str | None = None) -> str:
    """Return the diff. Raises `ValueError` if it is not a unified diff of one file, if it changes nothing, and, with a
    `path`, if it is for another file."""
    file = _parsed(diff)
    if not file.added + file.removed:
        raise ValueError("this is not a unified diff: it adds and removes no line")
    if path is not None and (reason := _of_another(file, path)) is not None:
        raise ValueError(reason)
    return diff


def changed_lines(diff: str) -> tuple[int, int]:
    """Return the number of lines that a diff adds, and that it removes. Raises `ValueError` as `check_diff` does."""
    file = _parsed(diff)
    return file.added, file.removed


def apply_diff(before: str | None, diff: str, path: str) -> str | None:
    """Apply a diff of the file `path` to its text and return the new text; None stands for a missing file.

    Every line of every hunk must be at the place that its header names. Modes in a diff of git are ignored.

    Raises `ActionError(unprocessable)` if the diff is malformed or for another file, and if a hunk does not fit: then
    the details have its number as `hunk` (from 1), its `header`, and the `expected` and the `found` lines.
    """
    try:
        file = _parsed(diff)
    except ValueError as error:
        raise _unfit(path, str(error)) from None
    _check_file(file, before, path)
    lines = _lines(before)
    made: list[str] = []
    done = 0
    for number, hunk in enumerate(file, 1):
        expected, replacement = _sides(hunk)
        start = hunk.source_start - (1 if expected else 0)
        if not done <= start <= len(lines) or lines[start : start + len(expected)] != expected:
            raise _misplaced(path, number, hunk, expected, lines[max(start, 0) : max(start, 0) + len(expected)])
        made += lines[done:start]
        done = start + len(expected)
        if _joins(made[-1:] + replacement + lines[done : done + 1]):
            message = "a line without a line feed is not the last"
            raise _misplaced(path, number, hunk, expected, lines[start:done], message)
        made += replacement
    made += lines[done:]
    if file.target_file != NOWHERE:
        return "".join(made)
    if made:
        raise _unfit(path, f"the diff removes the file, but {len(made)} of its lines remain")
    return None


def shown_name(name: str) -> str:
    """Return a name in the form of the `---` and `+++` lines of git, in quotes if necessary. Bytes that are not UTF-8
    are surrogate escapes, as in Python."""
    if _UNUSUAL.search(name):
        return f'"{_UNUSUAL.sub(_octal, name)}"'
    # GNU patch ends a name at a space unless a tab follows it.
    return f"{name}\t" if " " in name else name


def _octal(found: re.Match[str]) -> str:
    return f"\\{ord(found[0]) & 0xFF:03o}"


def _lines(text: str | None) -> list[str]:
    if not text:
        return []
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


_Block = tuple[str, int, int, int, int]


def _groups(old: Sequence[str], new: Sequence[str]) -> Iterator[Sequence[_Block]]:
    """Yield the hunks, each as blocks of lines before and after."""
    # The equal lines at both ends are not compared again: most edits of a long file are small.
    head = _same(zip(old, new, strict=False))
    tail = _same(zip(reversed(old[head:]), reversed(new[head:]), strict=False))
    old_end, new_end = len(old) - tail, len(new) - tail
    blocks: list[Any] = [("equal", 0, head, 0, head)] if head else []
    if (old_end - head) * (new_end - head) > _MAX_COMPARED_LINES:
        blocks.append(("replace", head, old_end, head, new_end))
    else:
        between = SequenceMatcher(None, old[head:old_end], new[head:new_end]).get_opcodes()
        blocks += [(kind, *(place + head for place in places)) for kind, *places in between]
    if tail:
        blocks.append(("equal", old_end, len(old), new_end, len(new)))
    whole: Any = SequenceMatcher()
    whole.opcodes = blocks
    yield from whole.get_grouped_opcodes(CONTEXT)


def _same(pairs: Iterable[tuple[str, str]]) -> int:
    """Return the number of equal pairs of lines before the first difference."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _header(group: Sequence[_Block]) -> str:
    old = _range(group[0][1], group[-1][2])
    new = _range(group[0][3], group[-1][4])
    return f"@@ -{old} +{new} @@\n"


def _range(start: int, end: int) -> str:
    """Return a range of lines as a header counts it: from 1, and an empty range by the line before it."""
    length = end - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"


def _parsed(diff: str) -> PatchedFile:
    """Return the only file of a diff. Raises `ValueError`."""
    try:
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet
    except ImportError:
        raise ValueError("to check diffs, install actionengine[changes]") from None
    try:
        files = PatchSet(diff)
    except (UnidiffParseError, ValueError) as error:
        # A line of the file follows the colon.
        raise ValueError(f"this is not a unified diff: {str(error).partition(':')[0].strip()}") from None
    if len(files) > 1:
        raise ValueError(f"an edit changes one file, and this diff changes {len(files)}")
    if not files:
        raise ValueError("this is not a unified diff: it adds and removes no line")
    _check_counts(files[0], diff)
    return files[0]


def _check_counts(file: PatchedFile, diff: str) -> None:
    """Raise `ValueError` for lines after the number that a hunk's header counts. `unidiff` ignores them, but a reader
    would take them for part of the hunk."""
    taken = {line.diff_line_no for hunk in file for line in hunk if line.diff_line_no}
    first = min(taken, default=diff.count("\n") + 1)
    for number, line in enumerate(diff.split("\n"), 1):
        if number > first and number not in taken and line[:1] in {"+", "-", " "} and line != "-- ":
            raise ValueError(f"this is not a unified diff: its line {number} is in no hunk")


def _check_file(file: PatchedFile, before: str | None, path: str) -> None:
    if (reason := _of_another(file, path)) is not None:
        raise _unfit(path, reason)
    if file.is_symlink or file.is_submodule:
        raise _unfit(path, "the diff is for a link or a submodule")
    if before is None and file.source_file != NOWHERE:
        raise _unfit(path, "the diff changes a file that does not exist")
    if before is not None and file.source_file == NOWHERE:
        raise _unfit(path, "the diff creates a file that already exists")


def _of_another(file: PatchedFile, path: str) -> str | None:
    for name in (file.source_file, file.target_file):
        if name != NOWHERE and path not in _names(name):
            return f"the diff is for another file: {name[:200]!r}"
    return None


def _names(name: str) -> tuple[str, ...]:
    """Return the possible names of a file in a header: with and without git's prefix."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = _ESCAPE.sub(_unescaped, name[1:-1].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    return (name, name[2:]) if _PREFIX.match(name) else (name,)


def _unescaped(found: re.Match[bytes]) -> bytes:
    sign = found[1]
    return bytes([int(sign, 8)]) if len(sign) == 3 else _ESCAPED.get(sign, sign)


def _sides(hunk: Hunk) -> tuple[list[str], list[str]]:
    """Return the lines that a hunk expects, and their replacement."""
    before: list[str] = []
    after: list[str] = []
    touched: tuple[list[str], ...] = ()
    for line in hunk:
        if line.line_type == "\\":
            for side in touched:
                side[-1] = side[-1].removesuffix("\n")
            touched = ()
        elif line.line_type:
            touched = (before,) if line.is_removed else (after,) if line.is_added else (before, after)
            for side in touched:
                side.append(line.value.removesuffix("\n") + "\n")
    return before, after


def _joins(lines: Sequence[str]) -> bool:
    """Return whether a line without a line feed is followed by another line."""
    return any(not line.endswith("\n") for line in lines[:-1])


def _misplaced(
    path: str,
    number: int,
    hunk: Hunk,
    expected: Sequence[str],
    found: Sequence[str],
    reason: str = "the file has other lines there",
) -> ActionError:
    header = f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@"
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"the diff does not fit {path!r}: hunk {number} ({header}): {reason}",
        {
            "path": path,
            "hunk": number,
            "header": header,
            "expected": list(expected[:_MAX_SHOWN_LINES]),
            "found": list(found[:_MAX_SHOWN_LINES]),
        },
    )


def _unfit(path: str, reason: str) -> ActionError:
    return ActionError(ErrorCode.UNPROCESSABLE, f"cannot edit {path!r}: {reason}", {"path": path})
