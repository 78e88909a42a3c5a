"""Resolution of a path below a folder, one name at a time, without ever leaving that folder.

Nothing is checked by name and then opened by name: each folder is opened without following links and held open while
the next name is resolved in it, and symbolic links are read and followed here. If another process replaces a folder by
a link meanwhile, the link is followed inside, or refused; see `openat(2)` on `O_NOFOLLOW`, and `openat2(2)` on
`RESOLVE_BENEATH`, which does the same on Linux only.
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
"""The flags that open a folder: itself, never the target of a link."""
FILE = FOLDER & ~getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""The flags that open a file to read: itself, without waiting for a FIFO's writer or taking over a terminal."""
NOT_ENTERED = (errno.ENOTDIR, errno.ELOOP, errno.EMLINK)
"""The errors of systems for a link that must not be followed, and for a path that is not a folder."""
MAX_LINKS = 40
"""The most symbolic links that one path may lead through; Linux has the same limit."""

_ATTEMPTS = 100


class PathResolver:
    """A position below a folder: `folder`, the open folder that was reached. A context manager, which closes it.

    Args:
        folder: the descriptor of the folder to start from; the resolver opens one of its own.
        path: the path that errors name.

    It holds at most two descriptors, at any depth.
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
        """Go to the folder that contains the target of a path, and return the target's name in it; None if the target
        is `folder` itself.

        Args:
            path: names with `/` between them.
            making: create missing folders.
            last: follow the last name too if it is a link.
            reason_against: returns the reason to refuse a name on the way, or None.

        Raises:
            PathEscapeError: for a link that is absolute or leads out, for more than 40 links, and for a refused name.
            ActionError: `conflict` if the folders on the way are being moved.
            OSError: for a name that is missing, not a folder, or not permitted.
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
                    raise escape(self._path, f"its part {name!r} is a link to an absolute path")
                ahead.extend(target.split("/")[::-1])
            elif not ahead:
                return name
        return None

    def enter(self, name: str, *, making: bool = False) -> str | None:
        """Enter a folder, or return the target if its name is a link. Raises `OSError` if it is neither."""
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
        """Return the target of a link; None if it does not exist or is not a link."""
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
        # A folder that was moved now has another parent.
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
        message = f"another process is moving the folders of {shown!r}; try again"
        return ActionError(ErrorCode.CONFLICT, message, {"path": shown})


def open_file(path: str, flags: int) -> int:
    """Open a file to read, as the `opener` of `open`."""
    return os.open(path, FILE)


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
    """Flush the names in a folder to the disk, if its file system supports that."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino
