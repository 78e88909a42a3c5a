"""The folders of workspaces: a working copy each, and what the ops of a change come to in it. All this may block.

Folders are made and removed after commits, in no order. So who removes one leaves a mark beside it, with the version of
the record that says so; who makes one looks for a mark that is newer than the record that it has read, and then takes
the copy away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any, NamedTuple

from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.idempotency.manifest import os_error_message
from actionengine.boundary.idempotency.working_copy import WorkingCopy, remove_own_tree
from actionengine.boundary.request import ModuleContext
from actionengine.changes.files import hash_of
from actionengine.changes.models import OpPreview
from actionengine.changes.module_files import is_of_the_file
from actionengine.errors import ActionError, ErrorCode, conflict

_HASHES_FILE = "ops.json"
"""Beside a copy: the hash of each file in it that ops have made, as they made it."""

_A_DAY = 24 * 60 * 60
"""Seconds after which nobody makes a copy any more for a record that was read before."""


class PreviewedOps(NamedTuple):
    """Ops that were tried, and the text of each file that they are about, or were about before."""

    ops: tuple[OpPreview, ...]
    texts: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class WorkspaceLocation:
    """Where a workspace is, the module that it is a copy of, and the version of the record that says so."""

    folder: Path
    module: ModuleContext
    version: int


class WorkspaceClosed(ActionError):
    """The workspace was stopped, or the change merged, since its record was read."""


def create_copy(place: WorkspaceLocation, tried: PreviewedOps, is_new: bool) -> None:
    """Make the copy of a workspace that was started; one that is there goes on, unless this is to be a new one."""
    with suppress(WorkspaceClosed), _unless_closed(place):
        if is_new:
            # Of an earlier workspace, whose folder could not be removed.
            _remove(place.folder)
        _put(_copy(place), tried)


def remove_copy(folder: Path, version: int) -> None:
    """Remove a copy, and keep those who have read an older record from making it again."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(_mark_of(folder), version)
        for mark in folder.parent.glob(_mark_of(folder.with_name("*")).name):
            with suppress(FileNotFoundError):
                if mark.stat().st_mtime < time() - _A_DAY:
                    mark.unlink()
    finally:
        _remove(folder)


def marked_files(place: WorkspaceLocation) -> tuple[str, ...]:
    """The files in a copy that ops have made."""
    with _unless_closed(place):
        return tuple(_marks(_copy(place)))


def inspect(place: WorkspaceLocation, tried: PreviewedOps) -> tuple[str, tuple[str, ...]]:
    """How a copy with the ops in it differs from the module, and the files that are left alone in it.

    Raises `ActionError(conflict)` where the module has changed meanwhile in a file that differs, and where the
    workspace was stopped.
    """
    with _unless_closed(place):
        copy = _copy(place)
        skipped_files = _put(copy, tried)
        try:
            return copy.diff(), skipped_files
        except ActionError as refusal:
            if refusal.code is ErrorCode.CONFLICT:
                error = refusal.without_traceback()
                raise conflict(
                    f"{error.message}: the working copy is of an older state of the module; stop it and start it anew",
                    **error.details,
                ) from None
            raise


def _mark_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.closed")


@contextmanager
def _unless_closed(place: WorkspaceLocation) -> Iterator[None]:
    _check_open(place)
    try:
        yield
    except (OSError, ActionError):
        # Perhaps because the copy is being removed.
        _check_open(place)
        raise


def _check_open(place: WorkspaceLocation) -> None:
    try:
        closed = json.loads(_mark_of(place.folder).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        # What a loss of power has left empty concerns nobody: those who were slower are gone, too.
        return
    if closed > place.version:
        id = place.folder.name
        raise WorkspaceClosed(ErrorCode.CONFLICT, f"the workspace of the change {id!r} has been stopped meanwhile")


def _remove(folder: Path) -> None:
    # Out of the way in one step, so that nobody finds half of it.
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".{folder.name}.{token_hex(8)}.removed"))
    for removed in folder.parent.glob(f".{folder.name}.*.removed"):
        remove_own_tree(removed)


def _copy(place: WorkspaceLocation) -> WorkingCopy:
    if (found := _opened(place)) is not None:
        return found
    try:
        made = WorkingCopy.create(place.module.root, place.folder)
    except ActionError as refusal:
        # Somebody else may just have made it.
        if refusal.code is ErrorCode.CONFLICT and (found := _opened(place)) is not None:
            return found
        raise
    try:
        _check_open(place)
    except WorkspaceClosed:
        _remove(place.folder)
        raise
    return made


def _opened(place: WorkspaceLocation) -> WorkingCopy | None:
    try:
        return WorkingCopy.open(place.folder)
    except ValueError:
        raise _damaged() from None
    except ActionError as absent:
        if absent.code is not ErrorCode.NOT_FOUND:
            raise
        return None


def _damaged() -> ActionError:
    # What a loss of power has left of it.
    return conflict("the working copy is damaged: stop the workspace, and start it anew")


def _put(copy: WorkingCopy, tried: PreviewedOps) -> tuple[str, ...]:
    """Write into the copy what the ops come to, but for files that somebody else has edited there: these are given."""
    marks = _marks(copy)
    skipped_files = []
    with ModuleFiles(copy.root) as files:
        for path, text in sorted(tried.texts.items()):
            base = node.sha256 if (node := copy.base.get(path)) is not None else None
            found, wanted = _hash_in(files, path), hash_of(text)
            if found != wanted and found not in (base, marks.get(path, base)):
                skipped_files.append(path)
                continue
            if found != wanted and text is None:
                files.delete(path)
            elif found != wanted and text is not None:
                files.write(path, text.encode())
            marks[path] = wanted
    named = {op.file_path for op in tried.ops}
    _write(copy.folder / _HASHES_FILE, {path: hash for path, hash in marks.items() if path in named})
    return tuple(skipped_files)


def _hash_in(files: ModuleFiles, path: str) -> str | None:
    try:
        return sha256(files.read(path)).hexdigest()
    except ActionError as refusal:
        if refusal.code is ErrorCode.NOT_FOUND:
            return None
        if is_of_the_file(refusal):
            # A link that leads out, a folder: nothing that ops have made.
            return ""
        raise


def _marks(copy: WorkingCopy) -> dict[str, str | None]:
    try:
        marks: dict[str, str | None] = json.loads((copy.folder / _HASHES_FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise _damaged() from None
    return marks


def _write(file: Path, content: Any) -> None:
    """Make or replace a file of our own, as JSON, wholly or not at all."""
    temporary = file.with_name(f".{token_hex(8)}.{file.name}")
    with os_error_message("write", file):
        try:
            temporary.write_text(json.dumps(content), encoding="ascii")
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
