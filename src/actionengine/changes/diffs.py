"""Unified diffs of files: whether a text is one."""

from __future__ import annotations


def check_diff(diff: str) -> str:
    """The text. Raises `ValueError` where it is no unified diff of one file, or one that changes nothing."""
    try:
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet
    except ImportError:
        raise ValueError("to check diffs, install actionengine[changes]") from None
    try:
        files = PatchSet(diff)
    except UnidiffParseError as error:
        # What follows the colon is a line of the file.
        raise ValueError(f"this is no unified diff: {str(error).partition(':')[0].strip()}") from None
    if len(files) > 1:
        raise ValueError(f"an op edits one file, and this diff is of {len(files)}")
    if not files.added + files.removed:
        raise ValueError("this is no unified diff: no line is added or removed in it")
    return diff
