"""The journal of a module: what work with an idempotency key has done in it, or is just about to do.

It lies beside the module's root, in `.<name>.actionengine`, on the same file system, so that files are moved from it
into the module, and no path of a request leads there. All workers of a module share it, as one user of the system:

- `lock` is held (`flock`) by the one piece of keyed work that is being done in the module;
- `<digest of the key>.ready` has a result and all the changes that belong to it; it is made under another name, flushed
  to the disk, and renamed, which is the point from which the work has taken effect. From then on whoever next holds the
  lock carries the changes out, each of which can be carried out again;
- `<digest of the key>.done` is what becomes of it when they are all carried out;
- `copy-…` and `staged-…` are what an attempt works with, and are removed by the next one if it was killed.

Who moves or removes a module does the same with its journal.

(A redo log, with one entry: Gray and Reuter, "Transaction Processing", 1993, ch. 9.)
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR, S_ISVTX
from time import monotonic, time

from actionengine.errors import ActionException, ErrorCode, failing, sendable
from actionengine.execution.descent import FOLDER, keep
from actionengine.execution.locks import locked
from actionengine.execution.manifests import FileChange, telling
from actionengine.execution.paths import TEMPORARY_PREFIX
from actionengine.execution.refusals import MissingModuleError
from actionengine.execution.request import ExecutionRequest, ExecutionResult
from actionengine.execution.runner import was_cancelled
from actionengine.execution.working_copy import open_up, real_root, remove_tree

_ENTRY = "entry.json"
_READY = ".ready"
_DONE = ".done"
# Of `Journal.fresh`, and of a working copy that is being made there.
_is_of_an_attempt = re.compile(r"(copy|staged)-[0-9a-f]{16}|\.copy-[0-9a-f]{16}\.[0-9a-f]{16}\.making").fullmatch
_NOT_A_FOLDER = (errno.ENOTDIR, errno.ELOOP, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Recorded:
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

    @contextmanager
    def lock(self, request: ExecutionRequest, cancelled: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock, waiting for it as long as the request's timeout.

        Raises `ActionException`: `idempotency_in_progress` after that time, `conflict` where the work is cancelled
        meanwhile, and `unavailable` where there can be no journal.
        """
        self._make_folder()
        until = monotonic() + request.timeout

        def go_on() -> None:
            if cancelled is not None and cancelled.is_set():
                raise was_cancelled(request)
            if monotonic() >= until:
                raise failing(
                    ErrorCode.IDEMPOTENCY_IN_PROGRESS,
                    f"other work with an idempotency key has held the module for {request.timeout} s; try again",
                    request_id=request.id,
                )

        with telling("lock", self.root):
            file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with locked(file, go_on):
                # It may have been exchanged while this waited.
                self._check_folder()
                yield
        finally:
            os.close(file)

    def is_interrupted(self) -> bool:
        """Whether there is work that has taken effect and is not wholly carried out (it may be just now)."""
        with telling("look at the journal of", self.root), suppress(FileNotFoundError, NotADirectoryError):
            return any(name.endswith(_READY) for name in os.listdir(self.folder))
        return False

    def recover(self) -> None:
        """Carry out what was interrupted, and remove what killed attempts have left."""
        with telling("recover", self.root):
            for name in sorted(os.listdir(self.folder)):
                path = self.folder / name
                if name.endswith(_READY):
                    self._carry_out(path)
                elif _is_of_an_attempt(name):
                    # A command of the killed attempt may still be writing there, being ended; there is a next time.
                    with suppress(ActionException):
                        _remove(path)

    def find(self, key: str) -> Recorded | None:
        """What is recorded under a key."""
        try:
            form = json.loads((self._place(key, _DONE) / _ENTRY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Recorded(form["fingerprint"], ExecutionResult.model_validate(form["result"]))

    def commit(
        self, key: str, recorded: Recorded, changes: Sequence[FileChange] = (), copy: Path | None = None
    ) -> None:
        """Have work take effect: its result, and its changes to files, which are taken out of the copy that it was done
        in. When this returns, they are carried out; when it does not, `recover` does it, or the work never was."""
        with telling("record work in", self.root):
            _check_permitted(self.root, changes)
            staged = self.fresh("staged")
            staged.mkdir()
            contents: dict[str, int] = {}
            if copy is not None:
                open_up(copy)
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
            (staged / _ENTRY).write_text(json.dumps(form), encoding="utf-8")
            _flush(staged / _ENTRY)
            _flush(staged)
            # A purge that was killed may have left a part of an entry.
            remove_tree(self._place(key, _DONE))
            ready = staged.rename(self._place(key, _READY))
            _flush(self.folder)
            self._carry_out(ready)

    def purge(self, age: float, most: int) -> None:
        """Forget work that is older than `age` (seconds), and the oldest beyond `most` pieces."""
        with telling("purge", self.root):
            done = [entry for entry in os.scandir(self.folder) if entry.name.endswith(_DONE)]
            done.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
            oldest = time() - age
            for number, entry in enumerate(done):
                if number >= most or entry.stat().st_mtime < oldest:
                    remove_tree(Path(entry.path))

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

    def _check_folder(self) -> None:
        """A command of the module's can have put something else there: what a link leads to is not ours to clean."""
        try:
            found = os.lstat(self.folder)
        except OSError as error:
            raise self._unusable(f"{error.strerror or error}") from error
        if not S_ISDIR(found.st_mode):
            raise self._unusable("what stands there is no folder")
        if found.st_dev != os.stat(self.root).st_dev:
            raise self._unusable("the module is the root of a file system; put it into a folder of it")

    def _unusable(self, reason: str) -> ActionException:
        return failing(
            ErrorCode.UNAVAILABLE,
            f"work with an idempotency key needs a folder {self.folder.name!r} beside its module: {reason}",
            folder=self.folder.name,
        )

    def _carry_out(self, ready: Path) -> None:
        form = json.loads((ready / _ENTRY).read_text(encoding="utf-8"))
        changes = [FileChange.from_json(each) for each in form["changes"]]
        with _Tree(self.root) as tree:
            for change in changes:
                if change.after is not None and change.after.kind == "folder":
                    tree.make_folder(change.path)
                elif change.before is not None and change.before.kind == "folder":
                    tree.open_up(change.path)
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
        done = ready.with_suffix(_DONE)
        os.utime(ready)
        ready.rename(done)
        _flush(self.folder)


class _Tree:
    """The module while changes are carried out in it, reached through folders that are held open and without following
    links. Each step can be done again, and what stands in the way of what has taken effect is removed."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, FOLDER)
        self._touched: set[str] = set()

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def remove(self, path: str) -> None:
        """A file, a link, or a folder if nothing is in it."""
        try:
            with self._parent(path, making=False) as (folder, name):
                is_folder = S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, *_NOT_A_FOLDER):
                raise

    def make_folder(self, path: str) -> None:
        """A folder, where there is none, that can be changed until it gets its mode."""
        with self._parent(f"{path}/.") as (folder, _):
            os.fchmod(folder, 0o700)

    def open_up(self, path: str) -> None:
        """Make a folder that goes away one that can be changed."""
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            self._parent(f"{path}/.", making=False) as (folder, _),
        ):
            os.fchmod(folder, 0o700)

    def move(self, source: Path, path: str) -> None:
        """A file or a link of the journal's. It is there no longer where this was done before."""
        with self._parent(path) as (folder, name):
            if os.path.lexists(source):
                self._clear(folder, name)
                try:
                    os.rename(source, name, dst_dir_fd=folder)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    _copy_over(source, folder, name)

    def set_mode(self, path: str, mode: int) -> None:
        """The permissions of a folder."""
        with self._parent(f"{path}/.") as (folder, _):
            os.fchmod(folder, mode)

    def flush(self) -> None:
        """Have it all outlast a loss of power."""
        for folder in sorted(self._touched):
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self._parent(f"{folder}/.", making=False) as (place, _),
            ):
                keep(place)

    @contextmanager
    def _parent(self, path: str, *, making: bool = True) -> Iterator[tuple[int, str]]:
        """The folder that a path is in, open, and the last name of the path."""
        *above, name = path.removeprefix("/").split("/")
        folder = os.dup(self._root)
        try:
            for number, each in enumerate(above):
                entered = self._enter(folder, each, making)
                os.close(folder)
                folder = entered
                if making:
                    self._touched.add("/".join(above[:number]))
            self._touched.add("/".join(above))
            yield folder, name
        finally:
            os.close(folder)

    def _enter(self, folder: int, name: str, making: bool) -> int:
        try:
            return os.open(name, FOLDER, dir_fd=folder)
        except OSError as error:
            if not making or error.errno not in (errno.ENOENT, *_NOT_A_FOLDER):
                raise
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, FOLDER, dir_fd=folder)

    def _clear(self, folder: int, name: str) -> None:
        """Make room for a file where a folder stands."""
        with suppress(NotADirectoryError, FileNotFoundError):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(name, dir_fd=folder)


def _copy_over(source: Path, folder: int, name: str) -> None:
    """Put a file or a link of the journal's where another file system is mounted in the module."""
    temporary = TEMPORARY_PREFIX + token_hex(16)
    try:
        if source.is_symlink():
            os.symlink(os.readlink(source), temporary, dir_fd=folder)
        else:
            with (
                open(source, "rb") as reading,
                open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, 0o600, dir_fd=folder)) as writing,
            ):
                shutil.copyfileobj(reading, writing)
                os.fchmod(writing.fileno(), os.fstat(reading.fileno()).st_mode & 0o777)
                writing.flush()
                os.fsync(writing.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    source.unlink()


def _check_permitted(root: Path, changes: Sequence[FileChange]) -> None:
    """Refuse changes that the system would not let be carried out: once they are recorded there is no way back, and
    nothing could be done in the module until somebody permits them."""
    for change in changes:
        parent = (root / change.path).parent
        while parent != root and not parent.is_dir():
            parent = parent.parent
        is_folder = any(node is not None and node.kind == "folder" for node in (change.before, change.after))
        if not (_can_be_changed_in(parent, changes, root) and _can_go(root / change.path, parent, is_folder)):
            path = sendable(change.path)
            message = f"the work changed {path!r}, and the system does not permit that in the module"
            raise failing(ErrorCode.FORBIDDEN, f"{message}; nothing has taken effect", path=path, reason="EACCES")


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
