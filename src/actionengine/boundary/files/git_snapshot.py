"""`GitSnapshot`: copies of the files that git needs of a module, made without following links.

Each folder and file is opened in the folder that was opened before, without following links, and the open file is
copied: a path that is swapped meanwhile leads nowhere else. No other process can swap the copies. Hard links and mounts
in a module belong to the module.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.paths import escape, is_git_folder
from actionengine.boundary.files.safe_open import FILE, FOLDER, NOT_ENTERED, closing, write_all
from actionengine.boundary.idempotency.manifest import os_error_message
from actionengine.errors import ActionError, ErrorCode, storable_text

MAX_BYTES = 1024**3
"""The limit of the objects and files of a snapshot, in bytes. Git maps whole packs into the memory of a command."""
MAX_FILES = 200_000
"""The limit of the number of files of a snapshot, loose objects included."""

_CHUNK = 1024 * 1024
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_NOT_A_FILE = (*NOT_ENTERED, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP)
_HAS_OBJECTS = re.compile("pack|[0-9a-f]{2}").fullmatch
_OBJECT = re.compile("[0-9a-f]{38}").fullmatch
_PACK = re.compile(r"pack-[0-9a-f]{40}\.(?:pack|idx)").fullmatch


class GitSnapshot:
    """Copies of the files that git needs of a module. A context manager.

    Args:
        files: the module.
        should_continue: called repeatedly; its error ends the copying.

    Its methods raise `unprocessable` for a module with more than `MAX_BYTES` or `MAX_FILES`, `forbidden` for unreadable
    files, and `unavailable` for a full disk and similar errors.
    """

    def __init__(self, files: ModuleFiles, should_continue: Callable[[], None]) -> None:
        self._root = files.open_folder()
        self._should_continue = should_continue
        self._bytes = 0
        self._files = 0

    def __enter__(self) -> GitSnapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._root)

    def copy_repository(self, repository: Path) -> None:
        """Copy loose objects, packs and the index. Other files beside them are ignored.

        Raises `PathEscapeError` for a link, and for anything else that is not a file.
        """
        with os_error_message("read", Path(".git")), _opened(".git", FOLDER, self._root, ".git") as git:
            self._copy_plain("index", git, ".git/index", repository / "index")
            with _opened("objects", FOLDER, git, ".git/objects") as objects:
                for name in self._names_in(objects, _HAS_OBJECTS):
                    path, folder = f".git/objects/{name}", repository / "objects" / name
                    folder.mkdir(exist_ok=True)
                    with _opened(name, FOLDER, objects, path) as opened:
                        for each in self._names_in(opened, _PACK if name == "pack" else _OBJECT):
                            self._copy_plain(each, opened, f"{path}/{each}", folder / each)

    def copy_files(self, names: Iterable[bytes], tree: Path) -> None:
        """Copy the files that an index names, and the attributes beside them. A file behind a link is missing, as for
        git; a link is copied as a link.

        Raises `PathEscapeError` for a name that leads out, or into `.git`.
        """
        tracked = dict.fromkeys(names)
        for name in tracked:
            _check_name(name)
        links: dict[bytes, bytes] = {}
        for name in tracked | _attributes_beside(tracked):
            with os_error_message("read", Path(os.fsdecode(name))):
                target = self._copy_tracked(name, os.path.join(os.fsencode(tree), name))
            if target is not None and name in tracked:
                links[name] = target
        # Links come after all files: no file is written through a link.
        for name, target in links.items():
            place = os.path.join(os.fsencode(tree), name)
            with os_error_message("copy", Path(os.fsdecode(name))):
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.symlink(target, place)

    def _copy_tracked(self, name: bytes, place: bytes) -> bytes | None:
        """Copy the file of a name in the work tree; for a link, only return its target."""
        *above, last = name.split(b"/")
        folder = os.dup(self._root)
        try:
            for each in above:
                try:
                    below = os.open(each, FOLDER, dir_fd=folder)
                except OSError as error:
                    if error.errno in (*NOT_ENTERED, errno.ENOENT):
                        return None
                    raise
                os.close(folder)
                folder = below
            try:
                file = os.open(last, FILE, dir_fd=folder)
            except OSError as error:
                if error.errno in NOT_ENTERED:
                    return _target(last, folder)
                if error.errno in (*_NOT_A_FILE, errno.ENOENT):
                    return None
                raise
        finally:
            os.close(folder)
        with closing(file):
            mode = os.fstat(file).st_mode
            if S_ISDIR(mode):
                # For git a missing folder, of a submodule for example, would be removed.
                os.makedirs(place, exist_ok=True)
            elif S_ISREG(mode):
                os.makedirs(os.path.dirname(place), exist_ok=True)
                self._copy(file, place, 0o777 if mode & 0o100 else 0o666)
        return None

    def _copy_plain(self, name: str, folder: int, path: str, place: Path) -> None:
        """Copy a file of a repository if it exists."""
        with suppress(FileNotFoundError), _opened(name, FILE, folder, path) as file:
            if not S_ISREG(os.fstat(file).st_mode):
                raise escape(path, "git expects a file here, and it is not one")
            self._copy(file, os.fsencode(place), 0o666)

    def _copy(self, file: int, place: bytes, mode: int) -> None:
        self._files += 1
        with closing(os.open(place, _NEW, mode)) as copy:
            while True:
                self._should_continue()
                chunk = os.read(file, _CHUNK)
                self._bytes += len(chunk)
                if self._bytes > MAX_BYTES or self._files > MAX_FILES:
                    raise _too_large()
                if not chunk:
                    return
                write_all(copy, chunk)

    def _names_in(self, folder: int, is_wanted: Callable[[str], object]) -> list[str]:
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(names) > MAX_FILES:
                    raise _too_large()
                self._should_continue()
                if is_wanted(entry.name):
                    names.append(entry.name)
        return names


@contextmanager
def _opened(name: str, flags: int, folder: int, path: str) -> Iterator[int]:
    """Open a part of a repository without following links."""
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise escape(path, "git's files are read without following links, and it is a link or not a file") from None
        raise
    with closing(descriptor):
        yield descriptor


def _target(name: bytes, folder: int) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            # The link was replaced meanwhile: for git, too, it may be missing.
            return None
        raise


def _check_name(name: bytes) -> None:
    for part in name.split(b"/"):
        text = os.fsdecode(part)
        if text in ("", ".", "..") or is_git_folder(text):
            shown = storable_text(os.fsdecode(name))
            raise escape(shown, "git's index names it, and a file of a work tree cannot have this name")


def _attributes_beside(names: Iterable[bytes]) -> dict[bytes, None]:
    folders = {name[:end] for name in names for end, sign in enumerate(name) if sign == ord("/")}
    return {b".gitattributes": None, **{folder + b"/.gitattributes": None for folder in sorted(folders)}}


def _too_large() -> ActionError:
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"the module's git repository and files exceed the limits of a diff ({MAX_BYTES} bytes, {MAX_FILES} files): "
        "pack it with `git gc`, or run git as a command, with cmd:run",
        {"max_bytes": MAX_BYTES, "max_files": MAX_FILES},
    )
