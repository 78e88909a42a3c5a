"""Manifests: the contents of a folder as data, with each file's hash and mode, each link's target, and each folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Any, Literal

from actionengine.boundary.errors import os_refusal
from actionengine.boundary.files.paths import MAX_PATH_LENGTH, TEMPORARY_PREFIX
from actionengine.boundary.files.safe_open import FILE, FOLDER, closing
from actionengine.errors import ActionError, ErrorCode, storable_text

_CHUNK = 1024 * 1024
_CODES = {
    errno.ENOENT: ErrorCode.CONFLICT,
    errno.ENOTDIR: ErrorCode.CONFLICT,
    errno.ELOOP: ErrorCode.CONFLICT,
    errno.EACCES: ErrorCode.FORBIDDEN,
    errno.EPERM: ErrorCode.FORBIDDEN,
    errno.EROFS: ErrorCode.FORBIDDEN,
}


@dataclass(frozen=True, slots=True)
class Node:
    """A file, link or folder: `mode` has its permissions, `sha256` and `size` (bytes) describe a file's contents, and
    `link` is the target of a symbolic link."""

    kind: Literal["file", "link", "folder"]
    mode: int = 0
    sha256: str = ""
    size: int = 0
    link: str = ""

    @property
    def executable(self) -> bool:
        """True for a file that its owner may execute."""
        return self.kind == "file" and bool(self.mode & 0o100)


Manifest = Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one path. `before` is None if it was added, `after` if it was removed."""

    path: str
    before: Node | None
    after: Node | None

    @property
    def kind(self) -> Literal["added", "modified", "removed"]:
        """The kind of the change."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "modified"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> FileChange:
        """Return the change that has this JSON form."""
        before, after = (None if node is None else Node(**node) for node in (form["before"], form["after"]))
        return cls(form["path"], before, after)


def compare(before: Manifest, after: Manifest) -> tuple[FileChange, ...]:
    """Return the changes between two manifests, sorted by path."""
    return tuple(
        FileChange(path, before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )


Take = Callable[[str, int, int, Iterator[bytes]], None]
"""`take(path, mode, modified, pieces)` consumes all contents of a file; `modified` is in nanoseconds."""


def scan(root: Path, should_continue: Callable[[], None] = lambda: None) -> Manifest:
    """Return the contents of a folder. Raises the errors of `nodes`, and of `should_continue`, which is called
    repeatedly."""

    def take(path: str, mode: int, modified: int, pieces: Iterator[bytes]) -> None:
        for _ in pieces:
            should_continue()

    found: dict[str, Node] = {}
    for path, node in nodes(root, take):
        should_continue()
        found[path] = node
    return found


def nodes(root: Path, take: Take) -> Iterator[tuple[str, Node]]:
    """Yield each path in a folder with its node, folders before their contents, without following links. Devices,
    FIFOs, sockets, and files that `ModuleFiles` is writing are left out.

    Raises `ActionError`: `conflict` if the folder changes meanwhile, or is no longer a folder, `forbidden` for
    unreadable files, `unprocessable` for a path of more than 1000 characters, and `unavailable`.
    """
    with os_error_message("read", root), closing(os.open(root, FOLDER)) as top:
        yield from _nodes_in(top, "", root, take)


@contextmanager
def os_error_message(verb: str, folder: Path) -> Iterator[None]:
    """Turn errors of the system in this block into `ActionError`s."""
    try:
        yield
    except OSError as error:
        name = storable_text(folder.name)
        # Callers do not learn where modules are stored: the error has only the last name of the path. The name is a
        # number if an open folder was listed.
        what = repr(name)
        if isinstance(error.filename, str | bytes):
            what += f" at {storable_text(os.path.basename(os.fsdecode(error.filename)))!r}"
        raise os_refusal(error, f"cannot {verb} {what}", _CODES, folder=name) from error


def _nodes_in(folder: int, above: str, root: Path, take: Take) -> Iterator[tuple[str, Node]]:
    # `os.fwalk` would wait for a FIFO that has replaced a folder.
    for name in sorted(os.listdir(folder)):
        path = above + name
        if len(path) > MAX_PATH_LENGTH:
            name, shown = storable_text(root.name), storable_text(path[:200])
            message = f"{name!r} contains a path of more than {MAX_PATH_LENGTH} characters, which begins with {shown!r}"
            raise ActionError(ErrorCode.UNPROCESSABLE, message, {"folder": name, "path": shown})
        node = _node(path, name, folder, take)
        if node is None:
            continue
        yield path, node
        if node.kind == "folder":
            with closing(os.open(name, FOLDER, dir_fd=folder)) as inner:
                yield from _nodes_in(inner, f"{path}/", root, take)


def _node(path: str, name: str, folder: int, take: Take) -> Node | None:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if S_ISLNK(found.st_mode):
        return Node("link", link=os.readlink(name, dir_fd=folder))
    if S_ISDIR(found.st_mode):
        return Node("folder", found.st_mode & 0o777)
    if not S_ISREG(found.st_mode) or name.startswith(TEMPORARY_PREFIX):
        return None
    with open(os.open(name, FILE, dir_fd=folder), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not S_ISREG(found.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        hashed = sha256()
        size = 0

        def pieces() -> Iterator[bytes]:
            nonlocal size
            while piece := file.read(_CHUNK):
                hashed.update(piece)
                size += len(piece)
                yield piece

        mode = found.st_mode & 0o777
        take(path, mode, found.st_mtime_ns, pieces())
        return Node("file", mode, hashed.hexdigest(), size)
