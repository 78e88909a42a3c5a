"""Removal of a folder with any contents that a command can create: of any depth, with any permissions, and with links.

The system limits the length of paths, Python the depth of calls, and both the number of open folders. So each folder is
reached by its name in its open parent, and folders below some levels are moved to the top before they are entered.

The supervisor of a command, which imports the standard library only, runs this as
`python -I -S remove_tree.py <folder>`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_LEVELS = 32


def remove_tree(folder: str | os.PathLike[str], parent: int | None = None) -> None:
    """Remove a folder with its contents. A missing folder is not an error.

    Args:
        folder: its path, or its name in `parent`, and not a link. Links in it are removed, not followed.
        parent: the descriptor of a folder.

    Raises `OSError` if something cannot be removed, or is added meanwhile.
    """
    with suppress(FileNotFoundError):
        top = _opened(folder, parent)
        try:
            deeper = _emptied(top, top, _LEVELS)
            while deeper:
                deeper += _removed(deeper.pop(), top, top, _LEVELS)
        finally:
            os.close(top)
        os.rmdir(folder, dir_fd=parent)


def _removed(name: str, parent: int, top: int, levels: int) -> list[str]:
    """Remove a folder, after moving its folders below `levels` to the top. Return their names there."""
    folder = _opened(name, parent)
    try:
        deeper = _emptied(folder, top, levels)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)
    return deeper


def _emptied(folder: int, top: int, levels: int) -> list[str]:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    deeper: list[str] = []
    for name, is_folder in found:
        with suppress(FileNotFoundError):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
            elif levels > 0:
                deeper += _removed(name, folder, top, levels - 1)
            else:
                deeper.append(_moved_to(top, name, folder))
    return deeper


def _moved_to(top: int, name: str, parent: int) -> str:
    # A folder must be writable to be moved.
    os.close(_opened(name, parent))
    moved = os.urandom(16).hex()
    os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=top)
    return moved


def _opened(name: str | os.PathLike[str], parent: int | None) -> int:
    """Open a folder, and make it readable and writable."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _FOLDER, dir_fd=parent)
    try:
        if os.fstat(folder).st_mode & 0o700 != 0o700:
            os.fchmod(folder, 0o700)
    except BaseException:
        os.close(folder)
        raise
    return folder


if __name__ == "__main__":
    # A traceback would go to the command's stderr.
    with suppress(OSError):
        remove_tree(sys.argv[1])
