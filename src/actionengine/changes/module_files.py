"""Reads texts of a module, and writes them if the module still has one of the earlier texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Literal

from actionengine.boundary.errors import MissingModuleError, PathEscapeError
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.paths import write_denial_reason
from actionengine.boundary.idempotency.working_copy import MAX_DIFF_BYTES
from actionengine.errors import ActionError, ErrorCode, storable_text

_WRITE_TIMEOUT = 10.0
"""Seconds to wait for another writer in the same module."""

logger = logging.getLogger("actionengine")


@dataclass(frozen=True, slots=True)
class FileWrite:
    """The new text of a file, its hash, and the hashes of the texts that it may replace."""

    path: str
    text: str | None
    sha256: str | None
    earlier: frozenset[str | None]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The outcome of a write."""

    path: str
    outcome: Literal["written", "there", "conflict", "failed"]
    error: ActionError | None = None


def write_files(root: Path, writes: Sequence[FileWrite], until: float) -> tuple[WriteResult, ...]:
    """Write files of a module that have one of the earlier texts, each independently, and none after `until` (by
    `time.monotonic`). Raises `ActionError` if the module cannot be written to at all."""
    deadline = monotonic() + _WRITE_TIMEOUT

    def should_continue() -> None:
        if monotonic() >= deadline:
            raise ActionError(
                ErrorCode.UNAVAILABLE, f"another writer held the module for {_WRITE_TIMEOUT:.0f} s: try again"
            )

    with _opened(root) as files, files.exclusive(should_continue):
        return tuple(_write_file(files, write, until) for write in writes)


def try_write_files(root: Path, writes: Sequence[FileWrite], until: float, change_id: str) -> None:
    """Write files for a change that has committed: conflicts and errors are logged."""
    try:
        results = write_files(root, writes, until)
    except ActionError as refusal:
        logger.error(
            "the files of the change %s are not written: %s. changes.write_files writes them again", change_id, refusal
        )
        return
    for each in results:
        if each.outcome == "conflict":
            logger.warning(
                "%s was edited after the change %s, and is not overwritten; changes.write_files tells whether a later "
                "change has edited it",
                each.path,
                change_id,
            )
        elif each.error is not None:
            logger.error(
                "%s is not written: %s. changes.write_files of the change %s writes it again",
                each.path,
                each.error,
                change_id,
            )


def _write_file(files: ModuleFiles, write: FileWrite, until: float) -> WriteResult:
    try:
        try:
            found = sha256(files.read(write.path)).hexdigest()
        except ActionError as refusal:
            if not _is_absent(refusal):
                raise
            found = None
        if found == write.sha256:
            return WriteResult(write.path, "there")
        if found not in write.earlier:
            return WriteResult(write.path, "conflict")
        if monotonic() > until:
            raise ActionError(
                ErrorCode.UNAVAILABLE, f"{write.path!r} was not written in time: ask for changes.write_files"
            )
        if write.text is None:
            files.delete(write.path)
        else:
            files.write(write.path, write.text.encode())
        return WriteResult(write.path, "written")
    except ActionError as refusal:
        # Something else than a file stands there.
        if is_of_the_file(refusal):
            return WriteResult(write.path, "conflict")
        return WriteResult(write.path, "failed", refusal.without_traceback())


def read_files(root: Path, paths: Sequence[str]) -> dict[str, str | ActionError | None]:
    """Return the text of each file, None for a missing one, and the error of a file that cannot be edited."""
    with _opened(root) as files:
        return {path: _read_file(files, path) for path in paths}


def _read_file(files: ModuleFiles, path: str) -> str | ActionError | None:
    for reason in filter(None, map(write_denial_reason, path.split("/"))):
        return ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} cannot be edited: {reason}", {"path": path})
    try:
        entry = files.stat(path)
        if entry is not None and entry.link is not None:
            # Two names of one file would have separate versions, and a removal would remove the link.
            message = f"{path!r} is a link to {storable_text(entry.link)!r}: edit the file that it leads to"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"path": path})
        content = files.read(path, MAX_DIFF_BYTES)
    except ActionError as refusal:
        if _is_absent(refusal):
            return None
        if is_of_the_file(refusal):
            return refusal.without_traceback()
        raise
    if b"\0" in content:
        return _no_text(path)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _no_text(path)


def _no_text(path: str) -> ActionError:
    return ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} is not a text in UTF-8: it cannot be edited", {"path": path})


@contextmanager
def _opened(root: Path) -> Iterator[ModuleFiles]:
    try:
        files = ModuleFiles(root)
    except MissingModuleError as missing:
        raise ActionError(ErrorCode.UNAVAILABLE, missing.message) from None
    with files:
        yield files


def _is_absent(refusal: ActionError) -> bool:
    return refusal.code is ErrorCode.NOT_FOUND


def is_of_the_file(refusal: ActionError) -> bool:
    """Return whether the cause is the file itself, rather than the time or the machine."""
    return isinstance(refusal, PathEscapeError) or refusal.code is ErrorCode.UNPROCESSABLE
