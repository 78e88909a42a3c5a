"""The journal of a module: what work with an idempotency key has done in it, or is just about to do.

It lies beside the module's root, in `.<name>.actionengine`, on the same file system, so that files are moved from it
into the module, and no path of a request leads there. All workers of a module share it, as one user of the system:

- `lock` is held (`flock`) by the one piece of keyed work that is being done in the module;
- `<digest of the key>.ready` has a result and all the changes that belong to it; it is made under another name, flushed
  to the disk, and renamed, which is the point from which the work has taken effect. From then on whoever next holds the
  lock carries the changes out, each of which can be carried out again;
- `done/<digest of the key>.done` is what becomes of it when they are all carried out: in a folder of its own, so that
  nobody has to look at all that was done before to see whether something is left to do;
- `purge` says until when nothing of that need be forgotten;
- `copy-…` and `staged-…` are what an attempt works with, and are removed by the next one if it was killed.

Who moves or removes a module does the same with its journal.

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
from actionengine.boundary.files.safe_open import FILE, closing
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
"""A hundredth of the entries, and of their time, may pass between two looks at all of them."""
# What somebody else has put there is left alone.
_is_ready = re.compile(r"[0-9a-f]{64}\.ready").fullmatch
_is_done = re.compile(r"[0-9a-f]{64}\.done").fullmatch
# Of `Journal.fresh`, and of a working copy that is being made there.
_is_of_an_attempt = re.compile(r"(copy|staged)-[0-9a-f]{16}|\.copy-[0-9a-f]{16}\.[0-9a-f]{16}\.making").fullmatch


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """Work that has taken effect: the fingerprint of what was asked for, and its result."""

    fingerprint: str
    result: ExecutionResult


class Journal:
    """The journal of the module at `root`. Its methods but `lock` and `is_interrupted` are for who holds the lock.

    Raises `MissingModuleError` where there is no such folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = real_root(root)
        if not self.root.name:
            raise MissingModuleError("the root of the file system is no module; put the module into a folder")
        self.folder = self.root.with_name(f".{self.root.name}.actionengine")
        self._done = self.folder / _FOLDER_OF_DONE

    @contextmanager
    def lock(self, request: ExecutionRequest, cancelled: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock, waiting for it as long as the request's timeout.

        Raises `ActionError`: `idempotency_in_progress` after that time, `conflict` where the work is cancelled
        meanwhile, and `unavailable` where there can be no journal.
        """
        self._make_folder()
        until = monotonic() + request.timeout

        def should_continue() -> None:
            if cancelled is not None and cancelled.is_set():
                raise cancelled_error(request)
            if monotonic() >= until:
                raise ActionError(
                    ErrorCode.IDEMPOTENCY_IN_PROGRESS,
                    f"other work with an idempotency key has held the module for {request.timeout} s; try again",
                    {"request_id": request.id},
                )

        while True:
            with os_error_message("lock", self.root):
                file = os.open(self.folder / "lock", _LOCK, 0o600)
            with closing(file), locked(file, should_continue):
                # It may have been exchanged while this waited.
                self._check_folder()
                if self._is_lock(file):
                    self._make_folder_of_done()
                    yield
                    return
            should_continue()

    def is_interrupted(self) -> bool:
        """Return whether there is work that has taken effect and is not wholly carried out (it may be just now)."""
        with os_error_message("look at the journal of", self.root), suppress(FileNotFoundError, NotADirectoryError):
            return any(map(_is_ready, os.listdir(self.folder)))
        return False

    def recover(self) -> None:
        """Carry out what was interrupted, and remove what killed attempts have left."""
        with os_error_message("recover", self.root):
            for name in sorted(os.listdir(self.folder)):
                path = self.folder / name
                if _is_ready(name):
                    self._apply(path)
                elif _is_of_an_attempt(name):
                    # A command of the killed attempt may still be writing there, being ended; there is a next time.
                    with suppress(ActionError):
                        _remove(path)

    def find(self, key: str) -> JournalEntry | None:
        """What is recorded under a key."""
        with os_error_message("read the journal of", self.root):
            try:
                form = _to_entry(self._done / self._place(key, _DONE).name)
            except FileNotFoundError:
                return None
        return JournalEntry(form["fingerprint"], ExecutionResult.model_validate(form["result"]))

    def commit(
        self, key: str, recorded: JournalEntry, changes: Sequence[FileChange] = (), copy: Path | None = None
    ) -> None:
        """Have work take effect: its result, and its changes to files, which are taken out of the copy that it was done
        in. When this returns, they are carried out; when it does not, `recover` does it, or the work never was."""
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
            # A purge that was killed may have left a part of an entry.
            _remove(self._done / self._place(key, _DONE).name)
            ready = staged.rename(self._place(key, _READY))
            _flush(self.folder)
            self._apply(ready)

    def purge(self, age: float, most: int) -> None:
        """Forget work that is older than `age` (seconds), and the oldest beyond `most` pieces: where it is much, all of
        it is looked at after each hundredth of the two only."""
        with os_error_message("purge", self.root):
            now, limits = time(), [age, most]
            noted = self._recorded()
            if noted.get("limits") == limits and noted["left"] > 0 and noted["at"] <= now < noted["until"]:
                self._record({**noted, "left": noted["left"] - 1})
                return
            done = [self._done / name for name in os.listdir(self._done) if _is_done(name)]
            entries = sorted(((_time_of(entry), entry) for entry in done), reverse=True)
            room = most if len(entries) <= most else most - most // _SPARE
            kept = [(at, entry) for at, entry in entries[:room] if at >= now - age]
            for _, entry in entries[:room][len(kept) :] + entries[room:]:
                _remove(entry)
            oldest = kept[-1][0] if kept else now
            until = max(oldest + age, now + age / _SPARE)
            self._record({"limits": limits, "left": most - len(kept), "at": now, "until": until})

    def _recorded(self) -> dict[str, Any]:
        """Return the record of the last purge; nothing where it cannot be read."""
        with suppress(OSError, ValueError):
            with open(self.folder / _PURGE, "rb", opener=_open_file) as file:
                noted = json.loads(file.read())
            if isinstance(noted, dict) and all(isinstance(noted.get(name), int | float) for name in _NUMBERS):
                return noted
        return {}

    def _record(self, noted: dict[str, Any]) -> None:
        # Where it cannot be written, each purge looks at all.
        with suppress(OSError):
            descriptor = os.open(self.folder / _PURGE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FILE, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(noted, file)

    def fresh(self, name: str) -> Path:
        """A path in the journal's folder that nothing has yet; what is put there does not outlast the attempt."""
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
            raise self._unusable(f"what stands in its place of {_FOLDER_OF_DONE!r} is no folder")

    def _check_folder(self) -> None:
        """A command of the module's can have put something else there: what a link leads to is not ours to clean."""
        try:
            found = os.lstat(self.folder)
            root = os.stat(self.root)
        except OSError as error:
            raise self._unusable(f"{error.strerror or error}") from error
        if not S_ISDIR(found.st_mode):
            raise self._unusable("what stands there is no folder")
        if found.st_dev != root.st_dev:
            raise self._unusable("the module is the root of a file system; put it into a folder of it")

    def _is_lock(self, file: int) -> bool:
        """Return whether this is the lock that others find, too."""
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
    """Refuse changes that the system would not let be carried out: once they are recorded there is no way back, and
    nothing could be done in the module until somebody permits them."""
    for change in changes:
        parent = (root / change.path).parent
        while parent != root and not parent.is_dir():
            parent = parent.parent
        is_folder = any(node is not None and node.kind == "folder" for node in (change.before, change.after))
        if not (_can_be_changed_in(parent, changes, root) and _can_go(root / change.path, parent, is_folder)):
            path = storable_text(change.path)
            message = f"the work changed {path!r}, and the system does not permit that in the module"
            raise ActionError(
                ErrorCode.FORBIDDEN, f"{message}; nothing has taken effect", {"path": path, "reason": "EACCES"}
            )


def _can_be_changed_in(folder: Path, changes: Sequence[FileChange], root: Path) -> bool:
    """Folders that are among the changes are opened up by `_can_go`'s leave."""
    path = os.path.relpath(folder, root)
    if any(change.path == path for change in changes):
        return True
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _can_go(path: Path, parent: Path, is_folder: bool) -> bool:
    """Whether what stands at a path may be replaced, removed, and have its permissions changed where it is a folder."""
    user = os.geteuid()
    if user == 0 or not os.path.lexists(path):
        return True
    found, above = path.lstat(), parent.stat()
    if is_folder and S_ISDIR(found.st_mode) and found.st_uid != user:
        return False
    return not above.st_mode & S_ISVTX or user in (found.st_uid, above.st_uid)


def _to_entry(folder: Path) -> dict[str, Any]:
    """Return the recorded entry. Raises `OSError`, and `ActionError`, `unavailable`, for what is no entry."""
    with open(folder / _ENTRY, "rb", opener=_open_file) as file:
        try:
            form: dict[str, Any] = json.loads(file.read())
        except (ValueError, TypeError):
            message = f"the journal has a damaged entry {folder.name!r}: someone has to look at it, and remove it"
            raise ActionError(ErrorCode.UNAVAILABLE, message, {"entry": folder.name}) from None
    return form


def _time_of(path: Path) -> float:
    return path.lstat().st_mtime


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_own_tree(path)
    else:
        path.unlink(missing_ok=True)


def _open_file(path: str, flags: int) -> int:
    return os.open(path, FILE)


def _flush(path: Path) -> None:
    with closing(os.open(path, FILE)) as descriptor:
        os.fsync(descriptor)
