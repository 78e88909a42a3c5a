"""Unified diffs of texts: made, checked, and applied where they fit exactly.

Lines end at a line feed and nowhere else, as git has it: a carriage return, a form feed or a Unicode line separator is
part of its line. `unidiff` reads diffs; hunks are placed here, without fuzz.
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
"""Lines before times lines after, between the first and the last difference: with more, one hunk replaces all of it."""

_MAX_SHOWN_LINES = 20
"""Lines of a hunk that does not fit which are told."""

_PREFIX = re.compile(r"[abciow12]/")
_UNUSUAL = re.compile(r'["\\\x00-\x1f\x7f\udc80-\udcff]')
_ESCAPE = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


def unified_diff(before: str | None, after: str | None, path: str) -> str:
    """What makes one text of another, as `git diff` would say it: `--- a/path`, `+++ b/path`, hunks with three lines of
    context. None stands for a file that is not there (`/dev/null`). Empty where both are the same."""
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
    """The text. Raises `ValueError` where it is no unified diff of one file, or one that changes nothing; and, with a
    `path`, one of another file."""
    file = _parsed(diff)
    if not file.added + file.removed:
        raise ValueError("this is no unified diff: no line is added or removed in it")
    if path is not None and (reason := _of_another(file, path)) is not None:
        raise ValueError(reason)
    return diff


def changed_lines(diff: str) -> tuple[int, int]:
    """How many lines a diff adds, and how many it removes. Raises `ValueError` as `check_diff` does."""
    file = _parsed(diff)
    return file.added, file.removed


def apply_diff(before: str | None, diff: str, path: str) -> str | None:
    """The text that a diff of the file `path` makes of `before`; None stands for a file that is not there.

    Every line of every hunk has to stand where its header says. What a diff of git's says of modes is left aside.

    Raises `ActionError(unprocessable)` where the text is no diff, or one of another file, and where a hunk does not
    fit: the details then have its number as `hunk` (the first is 1), its `header`, and the `expected` and the `found`
    lines.
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
            raise _misplaced(path, number, hunk, expected, lines[start:done], "a line without an end is not the last")
        made += replacement
    made += lines[done:]
    if file.target_file != NOWHERE:
        return "".join(made)
    if made:
        raise _unfit(path, f"the diff removes the file, and leaves {len(made)} of its lines")
    return None


def shown_name(name: str) -> str:
    """A name as the `---` and `+++` lines of a diff have it: quoted where it has to be, as git does it. Bytes that are
    not UTF-8 come as Python has them, as surrogate escapes."""
    if _UNUSUAL.search(name):
        return f'"{_UNUSUAL.sub(_octal, name)}"'
    # GNU patch ends a name at white space unless a tabulator does.
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
    """The hunks, each as blocks of lines before and after."""
    # What is the same at both ends is not compared again: most edits of a long file are small.
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
    """How many lines are the same before the first that differs."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _header(group: Sequence[_Block]) -> str:
    old = _range(group[0][1], group[-1][2])
    new = _range(group[0][3], group[-1][4])
    return f"@@ -{old} +{new} @@\n"


def _range(start: int, end: int) -> str:
    """Lines as a header counts them: from 1, and an empty range by the line before it."""
    length = end - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"


def _parsed(diff: str) -> PatchedFile:
    """The only file of a diff. Raises `ValueError`."""
    try:
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet
    except ImportError:
        raise ValueError("to check diffs, install actionengine[changes]") from None
    try:
        files = PatchSet(diff)
    except (UnidiffParseError, ValueError) as error:
        # What follows the colon is a line of the file.
        raise ValueError(f"this is no unified diff: {str(error).partition(':')[0].strip()}") from None
    if len(files) > 1:
        raise ValueError(f"an edit is of one file, and this diff is of {len(files)}")
    if not files:
        raise ValueError("this is no unified diff: no line is added or removed in it")
    _check_counts(files[0], diff)
    return files[0]


def _check_counts(file: PatchedFile, diff: str) -> None:
    """Lines that stand behind what a hunk's header counts, which `unidiff` passes over: a reader would take them for
    part of the hunk."""
    taken = {line.diff_line_no for hunk in file for line in hunk if line.diff_line_no}
    first = min(taken, default=diff.count("\n") + 1)
    for number, line in enumerate(diff.split("\n"), 1):
        if number > first and number not in taken and line[:1] in {"+", "-", " "} and line != "-- ":
            raise ValueError(f"this is no unified diff: its line {number} is in no hunk")


def _check_file(file: PatchedFile, before: str | None, path: str) -> None:
    if (reason := _of_another(file, path)) is not None:
        raise _unfit(path, reason)
    if file.is_symlink or file.is_submodule:
        raise _unfit(path, "the diff is of a link or a submodule")
    if before is None and file.source_file != NOWHERE:
        raise _unfit(path, "the diff changes a file, and there is none")
    if before is not None and file.source_file == NOWHERE:
        raise _unfit(path, "the diff makes a file, and there is one")


def _of_another(file: PatchedFile, path: str) -> str | None:
    for name in (file.source_file, file.target_file):
        if name != NOWHERE and path not in _names(name):
            return f"the diff is of another file: {name[:200]!r}"
    return None


def _names(name: str) -> tuple[str, ...]:
    """What a name in a header may stand for: with and without git's prefix."""
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = _ESCAPE.sub(_unescaped, name[1:-1].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    return (name, name[2:]) if _PREFIX.match(name) else (name,)


def _unescaped(found: re.Match[bytes]) -> bytes:
    sign = found[1]
    return bytes([int(sign, 8)]) if len(sign) == 3 else _ESCAPED.get(sign, sign)


def _sides(hunk: Hunk) -> tuple[list[str], list[str]]:
    """The lines that a hunk expects, and those that it puts in their place."""
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
    """Return whether a line without an end is followed by another."""
    return any(not line.endswith("\n") for line in lines[:-1])


def _misplaced(
    path: str,
    number: int,
    hunk: Hunk,
    expected: Sequence[str],
    found: Sequence[str],
    reason: str = "the lines of the file are others",
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
    return ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} cannot be edited so: {reason}", {"path": path})
