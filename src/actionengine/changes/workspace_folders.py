"""The folders of workspaces: a working copy each, with the ops of a change applied to it. These functions block.

Folders are created and removed after commits, in any order. So a removal leaves a marker beside the folder, with the
version of the record that demands it. A creation that finds a marker newer than its record removes its copy again.
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
"""The file beside a copy with the hash of each file that ops have written into it."""

_MARKER_LIFETIME = 24 * 60 * 60
"""Seconds after which no creation can still hold an older record."""


class PreviewedOps(NamedTuple):
    """Previewed ops, and the text of each file that they edit, or edited before."""

    ops: tuple[OpPreview, ...]
    texts: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class WorkspaceLocation:
    """The folder of a workspace, the module that it copies, and the version of its record."""

    folder: Path
    module: ModuleContext
    version: int


class WorkspaceClosed(ActionError):
    """A workspace that was stopped, or whose change was merged, since its record was read."""


def create_copy(location: WorkspaceLocation, previewed: PreviewedOps, is_new: bool) -> None:
    """Create the copy of a started workspace. An existing copy is reused, unless the workspace is new."""
    with suppress(WorkspaceClosed), _unless_closed(location):
        if is_new:
            # The folder of an earlier workspace may be left over.
            _remove(location.folder)
        _put(_copy(location), previewed)


def remove_copy(folder: Path, version: int) -> None:
    """Remove a copy, and leave a marker against creations with an older record."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(_marker(folder), version)
        for marker in folder.parent.glob(_marker(folder.with_name("*")).name):
            with suppress(FileNotFoundError):
                if marker.stat().st_mtime < time() - _MARKER_LIFETIME:
                    marker.unlink()
    finally:
        _remove(folder)


def files_of_ops(location: WorkspaceLocation) -> tuple[str, ...]:
    """Return the files of a copy that ops have written."""
    with _unless_closed(location):
        return tuple(_hashes(_copy(location)))


def inspect(location: WorkspaceLocation, previewed: PreviewedOps) -> tuple[str, tuple[str, ...]]:
    """Write the ops into a copy; return its diff against the module, and the files that were skipped.

    Raises `ActionError(conflict)` if the module has since changed in a file that differs, and if the workspace was
    stopped.
    """
    with _unless_closed(location):
        copy = _copy(location)
        skipped_files = _put(copy, previewed)
        try:
            return copy.diff(), skipped_files
        except ActionError as refusal:
            if refusal.code is ErrorCode.CONFLICT:
                error = refusal.without_traceback()
                raise conflict(
                    f"{error.message}: the working copy is older than that; stop the workspace and start it again",
                    **error.details,
                ) from None
            raise


def _marker(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.closed")


@contextmanager
def _unless_closed(location: WorkspaceLocation) -> Iterator[None]:
    _check_open(location)
    try:
        yield
    except (OSError, ActionError):
        # The copy may be under removal.
        _check_open(location)
        raise


def _check_open(location: WorkspaceLocation) -> None:
    try:
        closed = json.loads(_marker(location.folder).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        # A loss of power may leave the marker empty: it also ended the creations that it was for.
        return
    if closed > location.version:
        id = location.folder.name
        raise WorkspaceClosed(ErrorCode.CONFLICT, f"the workspace of the change {id!r} was stopped meanwhile")


def _remove(folder: Path) -> None:
    # Renamed first, so that no reader finds half of it.
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".{folder.name}.{token_hex(8)}.removed"))
    for removed in folder.parent.glob(f".{folder.name}.*.removed"):
        remove_own_tree(removed)


def _copy(location: WorkspaceLocation) -> WorkingCopy:
    if (found := _opened(location)) is not None:
        return found
    try:
        made = WorkingCopy.create(location.module.root, location.folder)
    except ActionError as refusal:
        # Another process may have created it at the same time.
        if refusal.code is ErrorCode.CONFLICT and (found := _opened(location)) is not None:
            return found
        raise
    try:
        _check_open(location)
    except WorkspaceClosed:
        _remove(location.folder)
        raise
    return made


def _opened(location: WorkspaceLocation) -> WorkingCopy | None:
    try:
        return WorkingCopy.open(location.folder)
    except ValueError:
        raise _damaged() from None
    except ActionError as absent:
        if absent.code is not ErrorCode.NOT_FOUND:
            raise
        return None


def _damaged() -> ActionError:
    # A loss of power may leave this.
    return conflict("the working copy is damaged: stop the workspace and start it again")


def _put(copy: WorkingCopy, previewed: PreviewedOps) -> tuple[str, ...]:
    """Write the result of the ops into a copy. Skip files that were edited in the copy itself, and return them."""
    hashes = _hashes(copy)
    skipped_files = []
    with ModuleFiles(copy.root) as files:
        for path, text in sorted(previewed.texts.items()):
            base = node.sha256 if (node := copy.base.get(path)) is not None else None
            found, wanted = _hash_in(files, path), hash_of(text)
            if found != wanted and found not in (base, hashes.get(path, base)):
                skipped_files.append(path)
                continue
            if found != wanted and text is None:
                files.delete(path)
            elif found != wanted and text is not None:
                files.write(path, text.encode())
            hashes[path] = wanted
    named = {op.file_path for op in previewed.ops}
    _write(copy.folder / _HASHES_FILE, {path: hash for path, hash in hashes.items() if path in named})
    return tuple(skipped_files)


def _hash_in(files: ModuleFiles, path: str) -> str | None:
    try:
        return sha256(files.read(path)).hexdigest()
    except ActionError as refusal:
        if refusal.code is ErrorCode.NOT_FOUND:
            return None
        if is_of_the_file(refusal):
            # A link that leads out, or a folder: not written by ops.
            return ""
        raise


def _hashes(copy: WorkingCopy) -> dict[str, str | None]:
    try:
        hashes: dict[str, str | None] = json.loads((copy.folder / _HASHES_FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise _damaged() from None
    return hashes


def _write(file: Path, content: Any) -> None:
    """Create or replace a file of the library with JSON, atomically."""
    temporary = file.with_name(f".{token_hex(8)}.{file.name}")
    with os_error_message("write", file):
        try:
            temporary.write_text(json.dumps(content), encoding="ascii")
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
