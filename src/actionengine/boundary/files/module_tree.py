"""`ModuleTree`: applies committed changes to a module."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from stat import S_ISDIR

from actionengine.boundary.files.paths import TEMPORARY_PREFIX
from actionengine.boundary.files.remove_tree import remove_tree
from actionengine.boundary.files.safe_open import FOLDER, NOT_ENTERED, sync_folder


class ModuleTree:
    """The module at `root`, reached through open folders and without following links. Each step can be repeated, and
    removes the obstacles to a committed change."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, FOLDER)
        self._touched: set[str] = set()

    def __enter__(self) -> ModuleTree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def remove(self, path: str) -> None:
        """Remove a file, a link, or an empty folder."""
        try:
            with self._parent(path, making=False) as (folder, name):
                is_folder = S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, *NOT_ENTERED):
                raise

    def make_folder(self, path: str) -> None:
        """Create a folder if it does not exist, and make it writable until it gets its mode."""
        with self._parent(f"{path}/.") as (folder, _):
            os.fchmod(folder, 0o700)

    def make_writable(self, path: str) -> None:
        """Make a folder writable that is removed later."""
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            self._parent(f"{path}/.", making=False) as (folder, _),
        ):
            os.fchmod(folder, 0o700)

    def move(self, source: Path, path: str) -> None:
        """Move a file or a link of the journal to a path. If `source` does not exist, it was moved before."""
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
        """Set the permissions of a folder."""
        with self._parent(f"{path}/.") as (folder, _):
            os.fchmod(folder, mode)

    def flush(self) -> None:
        """Flush all changed folders to the disk."""
        for folder in sorted(self._touched):
            with (
                suppress(FileNotFoundError, NotADirectoryError),
                self._parent(f"{folder}/.", making=False) as (place, _),
            ):
                sync_folder(place)

    @contextmanager
    def _parent(self, path: str, *, making: bool = True) -> Iterator[tuple[int, str]]:
        """Open the folder that contains a path, and give it with the last name of the path."""
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
            if not making or error.errno not in (errno.ENOENT, *NOT_ENTERED):
                raise
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, FOLDER, dir_fd=folder)

    def _clear(self, folder: int, name: str) -> None:
        """Remove a folder that stands where a file belongs."""
        with suppress(NotADirectoryError, FileNotFoundError):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                remove_tree(name, folder)


def _copy_over(source: Path, folder: int, name: str) -> None:
    """Move a file or a link of the journal to another file system, which is mounted in the module."""
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
