"""The journal of a module: the results and changes of work with an idempotency key.

It is the folder `.<name>.actionengine` beside the module's root, on the same file system, so that files can be moved
from it into the module; no path of a request leads there. All workers of a module share it, as one user of the system:

- `lock` is locked (`flock`) by the one piece of keyed work that runs in the module;
- `<digest of the key>.ready` has a result with all its changes. It is created under another name, flushed to the disk,
  and renamed: the rename commits the work. Then the next holder of the lock applies the changes, which can be repeated;
- `done/<digest of the key>.done` is the same entry after its changes were applied. It is in a folder of its own, so
  that a search for unfinished work does not list all finished work;
- `purge` records the next time at which entries may need to be purged;
- `copy-…` and `staged-…` are the files of one attempt. The next attempt removes them if this one was killed.

An operator who moves or removes a module must do the same with its journal.

(A redo log, with one entry: Gray and Reuter, "Transaction Processing", 1993, ch. 9.)
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR, S_ISVTX
from time import monotonic, time
from typing import Any

from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.files.locks import locked
from actionengine.boundary.files.module_tree import ModuleTree
from actionengine.boundary.files.safe_open import FILE, closing, open_file
from actionengine.boundary.idempotency.manifest import FileChange, os_error_message
from actionengine.boundary.idempotency.working_copy import make_writable, real_root, remove_own_tree
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import cancelled_error
from actionengine.errors import ActionError, ErrorCode, storable_text

# Commands of the module can put a link or a FIFO there: `FILE` neither follows the one nor waits for the other.
_LOCK = os.O_RDWR | os.O_CREAT | FILE
_ENTRY = "entry.json"
_READY = ".ready"
_DONE = ".done"
_FOLDER_OF_DONE = "done"
_PURGE = "purge"
_NUMBERS = ("left", "at", "until")
_SPARE = 100
"""A purge may list all entries after each hundredth of their number, or of their age, only."""
# Other files in the folder are ignored.
_is_ready = re.compile(r"[0-9a-f]{64}\.ready").fullmatch
_is_done = re.compile(r"[0-9a-f]{64}\.done").fullmatch
# The names of `Journal.fresh`, and of a working copy that is being created there.
_is_of_an_attempt = re.compile(r"(copy|staged)-[0-9a-f]{16}|\.copy-[0-9a-f]{16}\.[0-9a-f]{16}\.making").fullmatch


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Work that has taken effect: the fingerprint of its request, and its result."""

    fingerprint: str
    result: ExecutionResult


class Journal:
    """The journal of the module at `root`. All methods except `lock` and `is_interrupted` require the lock.

    Raises `MissingModuleError` if the folder does not exist.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = real_root(root)
        if not self.root.name:
            raise MissingModuleError("the root of the file system cannot be a module: put the module into a folder")
        self.folder = self.root.with_name(f".{self.root.name}.actionengine")
        self._done = self.folder / _FOLDER_OF_DONE

    @contextmanager
    def lock(self, request: ExecutionRequest, cancelled: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock in this block, after waiting for it at most for the request's timeout.

        Raises `ActionError`: `idempotency_in_progress` after that time, `conflict` if the work is cancelled meanwhile,
        and `unavailable` if the journal cannot be created.
        """
        self._make_folder()
        until = monotonic() + request.timeout

        def should_continue() -> None:
            if cancelled is not None and cancelled.is_set():
                raise cancelled_error(request)
            if monotonic() >= until:
                raise ActionError(
                    ErrorCode.IDEMPOTENCY_IN_PROGRESS,
                    f"other work with an idempotency key held the module for {request.timeout} s; try again",
                    {"request_id": request.id},
                )

        while True:
            with os_error_message("lock", self.root):
                file = os.open(self.folder / "lock", _LOCK, 0o600)
            with closing(file), locked(file, should_continue):
                # It may have been replaced during the wait.
                self._check_folder()
                if self._is_lock(file):
                    self._make_folder_of_done()
                    yield
                    return
            should_continue()

    def is_interrupted(self) -> bool:
        """Return whether the journal has committed work whose changes are not all applied yet."""
        with os_error_message("look at the journal of", self.root), suppress(FileNotFoundError, NotADirectoryError):
            return any(map(_is_ready, os.listdir(self.folder)))
        return False

    def recover(self) -> None:
        """Apply the changes of interrupted work, and remove the files of killed attempts."""
        with os_error_message("recover", self.root):
            for name in sorted(os.listdir(self.folder)):
                path = self.folder / name
                if _is_ready(name):
                    self._apply(path)
                elif _is_of_an_attempt(name):
                    # A command of the killed attempt may still write there. A later attempt removes the files.
                    with suppress(ActionError):
                        _remove(path)

    def find(self, key: str) -> JournalEntry | None:
        """Return the entry of a key; None if there is none."""
        with os_error_message("read the journal of", self.root):
            try:
                form = _to_entry(self._done / self._place(key, _DONE).name)
            except FileNotFoundError:
                return None
        return JournalEntry(form["fingerprint"], ExecutionResult.model_validate(form["result"]))

    def commit(
        self, key: str, recorded: JournalEntry, changes: Sequence[FileChange] = (), copy: Path | None = None
    ) -> None:
        """Commit work: its result, and its changes to files, which are moved from its copy. When this returns, the
        changes are applied. If this process dies, `recover` applies them, or the work had no effect."""
        with os_error_message("record work in", self.root):
            _check_permitted(self.root, changes)
            staged = self.fresh("staged")
            staged.mkdir()
            contents: dict[str, int] = {}
            if copy is not None:
                make_writable(copy)
            for change in changes:
                if copy is not None and change.after is not None and change.after.kind != "folder":
                    contents[change.path] = number = len(contents)
                    (copy / change.path).rename(staged / str(number))
                    if change.after.kind == "file":
                        _flush(staged / str(number))
            form = {
                "fingerprint": recorded.fingerprint,
                "result": recorded.result.model_dump(mode="json"),
                "changes": [change.to_json() for change in changes],
                "contents": contents,
            }
            with open(staged / _ENTRY, "x", encoding="utf-8") as file:
                file.write(json.dumps(form))
            _flush(staged / _ENTRY)
            _flush(staged)
            # A killed purge may have left a part of an entry.
            _remove(self._done / self._place(key, _DONE).name)
            ready = staged.rename(self._place(key, _READY))
            _flush(self.folder)
            self._apply(ready)

    def purge(self, age: float, most: int) -> None:
        """Remove the entries that are older than `age` (seconds), and the oldest if there are more than `most`. Most
        calls do not list the entries: see `_SPARE`."""
        with os_error_message("purge", self.root):
            now, limits = time(), [age, most]
            noted = self._recorded()
            if noted.get("limits") == limits and noted["left"] > 0 and noted["at"] <= now < noted["until"]:
                self._record({**noted, "left": noted["left"] - 1})
                return
            done = [self._done / name for name in os.listdir(self._done) if _is_done(name)]
            entries = sorted(((entry.lstat().st_mtime, entry) for entry in done), reverse=True)
            room = most if len(entries) <= most else most - most // _SPARE
            kept = [(at, entry) for at, entry in entries[:room] if at >= now - age]
            for _, entry in entries[:room][len(kept) :] + entries[room:]:
                _remove(entry)
            oldest = kept[-1][0] if kept else now
            until = max(oldest + age, now + age / _SPARE)
            self._record({"limits": limits, "left": most - len(kept), "at": now, "until": until})

    def _recorded(self) -> dict[str, Any]:
        """Return the record of the last purge; an empty one if it cannot be read."""
        with suppress(OSError, ValueError):
            with open(self.folder / _PURGE, "rb", opener=open_file) as file:
                noted = json.loads(file.read())
            if isinstance(noted, dict) and all(isinstance(noted.get(name), int | float) for name in _NUMBERS):
                return noted
        return {}

    def _record(self, noted: dict[str, Any]) -> None:
        # Without the record, each purge lists all entries.
        with suppress(OSError):
            descriptor = os.open(self.folder / _PURGE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FILE, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(noted, file)

    def fresh(self, name: str) -> Path:
        """Return a new path in the journal's folder, for files of this attempt only."""
        return self.folder / f"{name}-{token_hex(8)}"

    def _place(self, key: str, state: str) -> Path:
        return self.folder / f"{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}{state}"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(f"{error.strerror or error}") from error
        self._check_folder()

    def _make_folder_of_done(self) -> None:
        with os_error_message("keep a journal of", self.root), suppress(FileExistsError):
            self._done.mkdir(mode=0o700)
        if self._done.is_symlink() or not self._done.is_dir():
            raise self._unusable(f"its entry {_FOLDER_OF_DONE!r} is not a folder")

    def _check_folder(self) -> None:
        """Raise `unavailable` if the journal is not a folder beside the module: a command can have put a link there,
        and the cleanup must not follow it."""
        try:
            found = os.lstat(self.folder)
            root = os.stat(self.root)
        except OSError as error:
            raise self._unusable(f"{error.strerror or error}") from error
        if not S_ISDIR(found.st_mode):
            raise self._unusable("it is not a folder")
        if found.st_dev != root.st_dev:
            raise self._unusable("the module is the root of a file system: put the module into a folder")

    def _is_lock(self, file: int) -> bool:
        """Return whether an open file is still the lock that others open."""
        try:
            return os.path.samestat(os.fstat(file), os.lstat(self.folder / "lock"))
        except FileNotFoundError:
            return False

    def _unusable(self, reason: str) -> ActionError:
        return ActionError(
            ErrorCode.UNAVAILABLE,
            f"work with an idempotency key needs a folder {self.folder.name!r} beside its module: {reason}",
            {"folder": self.folder.name},
        )

    def _apply(self, ready: Path) -> None:
        form = _to_entry(ready)
        changes = [FileChange.from_json(each) for each in form["changes"]]
        with ModuleTree(self.root) as tree:
            for change in changes:
                if change.after is not None and change.after.kind == "folder":
                    tree.make_folder(change.path)
                elif change.before is not None and change.before.kind == "folder":
                    tree.make_writable(change.path)
            for change in reversed(changes):
                if change.after is None:
                    tree.remove(change.path)
            for change in changes:
                if change.path in form["contents"]:
                    tree.move(ready / str(form["contents"][change.path]), change.path)
            for change in reversed(changes):
                if change.after is not None and change.after.kind == "folder":
                    tree.set_mode(change.path, change.after.mode)
            tree.flush()
        os.utime(ready)
        ready.rename(self._done / ready.with_suffix(_DONE).name)
        _flush(self._done)
        _flush(self.folder)


def _check_permitted(root: Path, changes: Sequence[FileChange]) -> None:
    """Raise `forbidden` for changes that the system will not permit. After the commit they could not be undone, and
    would block all keyed work in the module."""
    for change in changes:
        parent = (root / change.path).parent
        while parent != root and not parent.is_dir():
            parent = parent.parent
        is_folder = any(node is not None and node.kind == "folder" for node in (change.before, change.after))
        if not (_can_be_changed_in(parent, changes, root) and _can_go(root / change.path, parent, is_folder)):
            path = storable_text(change.path)
            message = f"the system does not permit the change of {path!r} in the module; the work had no effect"
            raise ActionError(ErrorCode.FORBIDDEN, message, {"path": path, "reason": "EACCES"})


def _can_be_changed_in(folder: Path, changes: Sequence[FileChange], root: Path) -> bool:
    """Return whether entries of a folder can be changed. A folder among the changes is made writable if `_can_go`."""
    path = os.path.relpath(folder, root)
    if any(change.path == path for change in changes):
        return True
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _can_go(path: Path, parent: Path, is_folder: bool) -> bool:
    """Return whether a path may be replaced or removed, and, for a folder, get other permissions."""
    user = os.geteuid()
    if user == 0 or not os.path.lexists(path):
        return True
    found, above = path.lstat(), parent.stat()
    if is_folder and S_ISDIR(found.st_mode) and found.st_uid != user:
        return False
    return not above.st_mode & S_ISVTX or user in (found.st_uid, above.st_uid)


def _to_entry(folder: Path) -> dict[str, Any]:
    """Return a stored entry. Raises `OSError`, and `ActionError`, `unavailable`, for a damaged entry."""
    with open(folder / _ENTRY, "rb", opener=open_file) as file:
        try:
            form: dict[str, Any] = json.loads(file.read())
        except (ValueError, TypeError):
            message = f"the journal has a damaged entry {folder.name!r}: inspect it, and remove it"
            raise ActionError(ErrorCode.UNAVAILABLE, message, {"entry": folder.name}) from None
    return form


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_own_tree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with closing(os.open(path, FILE)) as descriptor:
        os.fsync(descriptor)
