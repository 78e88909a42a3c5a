"""The way down from a folder to what a path names, one name at a time, and never out of that folder.

Nothing is checked by its name and then opened by its name: each folder is opened without following links and held
while the next name is looked up in it, and each symbolic link is read and followed here. Who swaps a folder for a link
meanwhile has it followed as a link, inside, or refused; see `openat(2)` on `O_NOFOLLOW`, and `openat2(2)` on
`RESOLVE_BENEATH`, which does the same on Linux alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from stat import S_ISDIR

from actionengine.boundary.files.paths import escape
from actionengine.errors import ActionError, ErrorCode, storable_text

FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""The flags that open a folder: itself, never what a link leads to."""
FILE = FOLDER & ~getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""The flags that open a file to read: itself, without waiting for a FIFO's writer or taking over a terminal."""
NOT_ENTERED = (errno.ENOTDIR, errno.ELOOP, errno.EMLINK)
"""The errors of systems for a link that must not be followed, and for what is no folder."""
MAX_LINKS = 40
"""The most symbolic links that one path may lead through; Linux has the same limit."""

_ATTEMPTS = 100


class PathResolver:
    """Where a way down has come to: `folder`, an open folder. A context manager, which closes it.

    Args:
        folder: the descriptor of the folder to go down from; the descent opens its own of it.
        path: what errors name.

    It holds two descriptors at most, however deep it goes.
    """

    def __init__(self, folder: int, path: str) -> None:
        self.folder = os.open(".", FOLDER, dir_fd=folder)
        self._path = path
        self._above: list[tuple[int, int]] = []

    def __enter__(self) -> PathResolver:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.folder)

    def follow(
        self,
        path: str,
        *,
        making: bool = False,
        last: bool = True,
        reason_against: Callable[[str], str | None] | None = None,
    ) -> str | None:
        """Go down to the folder of what a path names, and give its name there; None where it is `folder` itself.

        Args:
            path: names with `/` between them.
            making: whether folders that are missing are made.
            last: whether the last name is followed too where it is a link.
            reason_against: says of each name that is met why it must not be, or None.

        Raises:
            PathEscapeError: for a link that is absolute, or leads out, for more than 40 of them, and for a name that
                must not be met.
            ActionError: `conflict` where the folders on the way are being moved.
            OSError: for what is missing, no folder, or not permitted.
        """
        ahead = path.split("/")[::-1]
        links = 0
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                self._leave()
                continue
            reason = reason_against and reason_against(name)
            if reason:
                raise escape(self._path, reason)
            if not ahead and not last:
                return name
            target = self.enter(name, making=making) if ahead else self.link(name)
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise escape(self._path, f"it leads through more than {MAX_LINKS} links")
                if target.startswith("/"):
                    raise escape(self._path, f"{name!r} in it is a link to an absolute path")
                ahead.extend(target.split("/")[::-1])
            elif not ahead:
                return name
        return None

    def enter(self, name: str, *, making: bool = False) -> str | None:
        """Go into a folder, or give the target of the link that has its name. Raises `OSError` where it is neither."""
        for _ in range(_ATTEMPTS):
            try:
                entered = os.open(name, FOLDER, dir_fd=self.folder)
            except FileNotFoundError:
                if not making:
                    raise
                self._make(name)
            except OSError as error:
                if error.errno not in NOT_ENTERED:
                    raise
                target = self.link(name)
                if target is not None:
                    return target
                if not S_ISDIR(os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            else:
                self._above.append(_identity(self.folder))
                os.close(self.folder)
                self.folder = entered
                return None
        raise self._moved()

    def link(self, name: str) -> str | None:
        """The target of a link, None for what is none or not there."""
        try:
            return os.readlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def _leave(self) -> None:
        if not self._above:
            raise escape(self._path, "a link in it leads out of the module")
        left = os.open("..", FOLDER, dir_fd=self.folder)
        # A folder that was moved has another parent than the one that it was entered from.
        if _identity(left) != self._above[-1]:
            os.close(left)
            raise self._moved()
        self._above.pop()
        os.close(self.folder)
        self.folder = left

    def _make(self, name: str) -> None:
        try:
            os.mkdir(name, dir_fd=self.folder)
        except FileExistsError:
            return
        sync_folder(self.folder)

    def _moved(self) -> Exception:
        shown = storable_text(self._path[:200])
        message = f"the folders on the way to {shown!r} are being moved by someone else; try again"
        return ActionError(ErrorCode.CONFLICT, message, {"path": shown})


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(file: int, content: bytes) -> None:
    """Write bytes to a descriptor, in as many calls as it takes."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def sync_folder(folder: int) -> None:
    """Have the names in a folder outlast a loss of power, where its file system can."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino
