"""The files of a module: read, written and listed inside the module only.

Symbolic links are followed inside the module only. Some things are out of its control. A *hard* link to a file outside
looks like a file of the module and is read as one; writing never changes the other file, since files are replaced and
not overwritten. Mounts below the root are part of the module. Commands in a module are confined elsewhere, if at all.
On macOS `fsync` hands the contents to the disk, which may keep them in its cache.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from stat import S_ISDIR, S_ISLNK, S_ISREG

from actionengine.boundary.errors import no_root, os_refusal
from actionengine.boundary.files.locks import locked
from actionengine.boundary.files.paths import (
    MAX_PATH_LENGTH,
    TEMPORARY_PREFIX,
    module_folder,
    module_path,
    write_denial_reason,
)
from actionengine.boundary.files.safe_open import FILE, FOLDER, PathResolver, closing, sync_folder, write_all
from actionengine.errors import ActionError, ErrorCode, storable_text

MAX_BYTES = 16 * 1024 * 1024
"""The default limit of the size of a file that is read, in bytes."""

_SUPPORTED = os.open in os.supports_dir_fd
_CHUNK = 1024 * 1024
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_MODULE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_CODES = {
    errno.ENOENT: ErrorCode.NOT_FOUND,
    errno.EACCES: ErrorCode.FORBIDDEN,
    errno.EPERM: ErrorCode.FORBIDDEN,
    errno.EROFS: ErrorCode.FORBIDDEN,
    errno.ELOOP: ErrorCode.CONFLICT,
    errno.EMLINK: ErrorCode.CONFLICT,
    errno.ENOTDIR: ErrorCode.UNPROCESSABLE,
    errno.EISDIR: ErrorCode.UNPROCESSABLE,
    errno.ENAMETOOLONG: ErrorCode.UNPROCESSABLE,
    errno.EILSEQ: ErrorCode.UNPROCESSABLE,
    errno.EINVAL: ErrorCode.UNPROCESSABLE,
    errno.EFBIG: ErrorCode.UNPROCESSABLE,
    errno.ENXIO: ErrorCode.UNPROCESSABLE,
    errno.ENODEV: ErrorCode.UNPROCESSABLE,
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in a module, or a symbolic link.

    `size` is in bytes. `executable` is true if its owner may execute it. `link` is the target of a symbolic link,
    unchanged. Bytes that are not UTF-8 in a name or target are surrogate escapes, as in Python.
    """

    path: str
    size: int
    executable: bool
    link: str | None


class ModuleFiles:
    """The files of one module. A context manager; threads can share it.

    Args:
        root: the module's folder. It may be a symbolic link, which is followed once, here; moving the folder later
            changes nothing.

    Every method raises `PathEscapeError` for a path that `module_path` refuses, for a path that leads out of the module
    by links, and for a change to a path that `write_denial_reason` protects (`.git`), also through a link. It raises
    `ActionError`: `not_found`; `unprocessable` for a path that is not a file, or a file that is too large; `forbidden`
    if the system does not permit it; `conflict` if another process is replacing the path; `unavailable` for a full
    disk, too many open files and similar errors. `details` has the `path`, and the system's name of the error as
    `reason`.

    Raises:
        MissingModuleError: if the folder does not exist.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not _SUPPORTED:
            raise ActionError(ErrorCode.UNAVAILABLE, "modules need Linux or macOS, not this system")
        self._lock = threading.Lock()
        self._root = -1
        try:
            self._root = os.open(root, FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_MODULE:
                raise _refusal(error, "open", os.path.basename(os.fspath(root))) from error
            raise no_root(root) from None

    def __enter__(self) -> ModuleFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, path: str, limit: int = MAX_BYTES) -> bytes:
        """Return the contents of a file of at most `limit` bytes. A path that is not a file is not opened, or closed
        unread."""
        with self._down(module_path(path), "read") as descent:
            name = _file_name(descent.follow(path), path)
            # Checked before opening, since opening a device or a FIFO can have effects; and on the open file again.
            _check_file(os.stat(name, dir_fd=descent.folder, follow_symlinks=False), path)
            with closing(os.open(name, FILE, dir_fd=descent.folder)) as file:
                _check_file(os.fstat(file), path)
                return _content(file, path, limit)

    def write(self, path: str, content: bytes, *, executable: bool | None = None) -> None:
        """Create or replace a file, completely or not at all. The file survives a loss of power.

        Missing folders are created. Through a link that stays inside, its target is written. A replaced file keeps its
        mode, and gets the owner of this process; `executable` gives or takes the right to execute for all that may read
        it. As with any replacement, the folder's permissions decide, not those of the file.
        """
        with self._down(module_path(path), "write") as descent:
            name = _file_name(descent.follow(path, making=True, reason_against=write_denial_reason), path)
            mode = _mode(descent.folder, name, path)
            temporary = TEMPORARY_PREFIX + token_hex(16)
            # The system applies the umask to the mode of a new file.
            made = 0o600 if mode is not None else 0o777 if executable else 0o666
            file = os.open(temporary, _MAKE, made, dir_fd=descent.folder)
            try:
                with closing(file):
                    write_all(file, content)
                    if mode is not None:
                        os.fchmod(file, _with_executable(mode, executable))
                    os.fsync(file)
                os.rename(temporary, name, src_dir_fd=descent.folder, dst_dir_fd=descent.folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=descent.folder)
                raise
            sync_folder(descent.folder)

    def delete(self, path: str) -> None:
        """Delete a file, or a link and not its target. Folders stay, even empty ones."""
        with self._down(module_path(path), "delete") as descent:
            name = _file_name(descent.follow(path, last=False, reason_against=write_denial_reason), path)
            # POSIX lets root unlink a folder on some systems, and the errors of others differ.
            if S_ISDIR(os.stat(name, dir_fd=descent.folder, follow_symlinks=False).st_mode):
                raise _no_file(path, "a folder")
            os.unlink(name, dir_fd=descent.folder)
            sync_folder(descent.folder)

    def stat(self, path: str) -> FileEntry | None:
        """Return the entry of a file, or of a link itself; None if nothing exists at the path."""
        with self._down(module_path(path), "look at") as descent:
            try:
                name = _file_name(descent.follow(path, last=False), path)
                found = os.stat(name, dir_fd=descent.folder, follow_symlinks=False)
                if not S_ISLNK(found.st_mode):
                    _check_file(found, path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            entry = _entry(descent, name, path, found)
            if entry is None:
                raise _exchanged(path)
            return entry

    def walk(self, folder: str = "") -> Iterator[FileEntry]:
        """Yield the regular files and the links in a folder and its subfolders, depth first, by name. Links are not
        followed.

        The entries include `.git` and names that a request cannot give, but not the files that crashed writers left,
        whose names begin with `TEMPORARY_PREFIX`. An entry that is replaced meanwhile may be missing. Errors come with
        the first entry, or with the entry that they concern; a folder whose path is longer than a request allows is
        `unprocessable`.
        """
        folder = module_folder(folder)
        pending: list[FileEntry | tuple[str, ...]] = [()]
        with closing(self.open_folder(folder)) as start:
            while pending:
                each = pending.pop()
                if isinstance(each, FileEntry):
                    yield each
                else:
                    pending.extend(reversed(_listing(start, folder, each)))

    def open_folder(self, folder: str = "") -> int:
        """Return a descriptor of a folder, to run a command in it. The caller closes it."""
        folder = module_folder(folder)
        with self._down(folder, "open") as descent:
            descent.follow(f"{folder}/.")
            return os.open(".", FOLDER, dir_fd=descent.folder)

    @contextmanager
    def exclusive(self, should_continue: Callable[[], None]) -> Iterator[None]:
        """Lock the module against other callers of this method in all processes. Blocks cannot be nested.

        `should_continue` is called before each further attempt; its error ends the wait. On file systems without locks
        of folders (NFS) no caller waits.
        """
        with closing(self.open_folder()) as root, locked(root, should_continue, required=False):
            yield

    def close(self) -> None:
        """Close the root. All other methods raise `ValueError` afterwards."""
        with self._lock:
            if self._root >= 0:
                os.close(self._root)
            self._root = -1

    @contextmanager
    def _down(self, path: str, verb: str) -> Iterator[PathResolver]:
        with _os_error_message(verb, path):
            # Without the lock, another thread's `close` could give the root's number to another folder.
            with self._lock:
                if self._root < 0:
                    raise ValueError("the files of this module are closed")
                descent = PathResolver(self._root, path)
            with descent:
                yield descent


@contextmanager
def _os_error_message(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(error, verb, path) from error


def _refusal(error: OSError, verb: str, path: str) -> ActionError:
    shown = storable_text(path[:200])
    return os_refusal(error, f"cannot {verb} {shown!r}", _CODES, path=shown)


def _no_file(path: str, what: str) -> ActionError:
    return ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} is {what}, not a file", {"path": path})


def _file_name(name: str | None, path: str) -> str:
    if name is None:
        raise _no_file(path, "a folder")
    return name


def _check_file(found: os.stat_result, path: str) -> None:
    if S_ISLNK(found.st_mode):
        raise _exchanged(path)
    if not S_ISREG(found.st_mode):
        raise _no_file(path, "a folder" if S_ISDIR(found.st_mode) else "a device, a FIFO or a socket")


def _exchanged(path: str) -> ActionError:
    return ActionError(ErrorCode.CONFLICT, f"another process is replacing {path!r}; try again", {"path": path})


def _content(file: int, path: str, limit: int) -> bytes:
    if os.fstat(file).st_size > limit:
        raise _too_large(path, limit)
    content = bytearray()
    # The file may grow meanwhile.
    while piece := os.read(file, min(_CHUNK, limit + 1 - len(content))):
        content += piece
        if len(content) > limit:
            raise _too_large(path, limit)
    return bytes(content)


def _too_large(path: str, limit: int) -> ActionError:
    return ActionError(
        ErrorCode.UNPROCESSABLE, f"{path!r} is larger than {limit} bytes", {"path": path, "limit": limit}
    )


def _mode(folder: int, name: str, path: str) -> int | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _check_file(found, path)
    # No write keeps setuid and similar bits.
    return found.st_mode & 0o777


def _with_executable(mode: int, executable: bool | None) -> int:
    if executable is None:
        return mode
    return mode | (mode & 0o444) >> 2 if executable else mode & ~0o111


def _entry(descent: PathResolver, name: str, path: str, found: os.stat_result) -> FileEntry | None:
    if S_ISLNK(found.st_mode):
        target = descent.link(name)
        return None if target is None else FileEntry(path, found.st_size, False, target)
    return FileEntry(path, found.st_size, bool(found.st_mode & 0o100), None)


def _listing(start: int, folder: str, names: tuple[str, ...]) -> list[FileEntry | tuple[str, ...]]:
    """Return the entries of a folder, and its subfolders. Each call enters it from the start: so a walk holds only one
    descriptor, and does not enter a folder that has become a link."""
    path = "/".join((folder, *names) if folder else names)
    if len(path) > MAX_PATH_LENGTH:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"a folder's path has more than {MAX_PATH_LENGTH} characters; it begins with {storable_text(path[:200])!r}",
            {"path": storable_text(path[:200])},
        )
    listed: list[FileEntry | tuple[str, ...]] = []
    with (
        _os_error_message("list", path),
        PathResolver(start, path) as descent,
        suppress(FileNotFoundError, NotADirectoryError),
    ):
        if any(descent.enter(name) is not None for name in names):
            return []
        for name in sorted(os.listdir(descent.folder)):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=descent.folder, follow_symlinks=False)
                if S_ISDIR(found.st_mode):
                    listed.append((*names, name))
                elif S_ISLNK(found.st_mode) or (S_ISREG(found.st_mode) and not name.startswith(TEMPORARY_PREFIX)):
                    entry = _entry(descent, name, f"{path}/{name}" if path else name, found)
                    listed += [] if entry is None else [entry]
    return listed
