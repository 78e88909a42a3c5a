"""`WorkingCopy`: a copy of a module for work, and the changes in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from actionengine.boundary.errors import no_root
from actionengine.boundary.files.remove_tree import remove_tree
from actionengine.boundary.files.safe_open import open_file
from actionengine.boundary.files.unified_diff import shown_name, unified_diff
from actionengine.boundary.idempotency.manifest import (
    FileChange,
    Manifest,
    Node,
    compare,
    nodes,
    os_error_message,
    scan,
)
from actionengine.errors import ActionError, ErrorCode, storable_text

MAX_DIFF_BYTES = 4 * 1024 * 1024
"""The largest file that a diff shows, in bytes; larger files are only named, as binary files are."""

_TREE = "tree"
_BASE = "base.json"


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The limits of a copied module: `files` counts links and folders too, and `size` is in bytes."""

    files: int = 100_000
    size: int = 2 * 1024 * 1024 * 1024


class WorkingCopy:
    """A copy of a module, created by `create` and opened again by `open`, also in another process.

    `folder` contains it; `root` in it is the copy itself, for use as the root of a module. `module_root` is the root of
    the module, `base` its contents when the copy was created, and `left_out` its links that are not in the copy:
    absolute links and links that lead out.

    Modes and times of change are kept; owners, hard links, devices, FIFOs and sockets are not.
    """

    def __init__(self, folder: Path, module_root: Path, base: Manifest, left_out: frozenset[str]) -> None:
        self.folder = folder
        self.root = folder / _TREE
        self.module_root = module_root
        self.base = base
        self.left_out = left_out

    @classmethod
    def create(
        cls,
        module_root: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        limits: CopyLimits | None = None,
        should_continue: Callable[[], None] = lambda: None,
    ) -> WorkingCopy:
        """Copy a module into a new folder. A process that dies meanwhile leaves no `folder`. `should_continue` is
        called repeatedly; its error ends the copying and removes the copy.

        Raises:
            MissingModuleError: if the module does not exist.
            ActionError: `conflict` if `folder` exists, or the module is changed meanwhile; `unprocessable` for a module
                above `limits`; `forbidden` for unreadable files; `unavailable` for a full disk and similar errors.
        """
        root = real_root(module_root)
        place = Path(os.path.abspath(folder))
        with os_error_message("write", place):
            if place.exists():
                raise _exists_error(place)
        making = place.with_name(f".{place.name}.{token_hex(8)}.making")
        try:
            with os_error_message("write", place):
                (making / _TREE).mkdir(parents=True)
                base, left_out = _copy(root, making / _TREE, limits or CopyLimits(), should_continue)
                form = {
                    "module_root": os.fspath(root),
                    "left_out": sorted(left_out),
                    "base": {path: asdict(node) for path, node in base.items()},
                }
                with open(making / _BASE, "x", encoding="utf-8") as file:
                    file.write(json.dumps(form))
                # A rename never replaces a folder that is not empty: of two callers, one succeeds.
                making.rename(place)
        except BaseException as error:
            remove_own_tree(making)
            if isinstance(error, ActionError) and place.exists():
                raise _exists_error(place) from error
            raise
        return cls(place, root, base, left_out)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> WorkingCopy:
        """Return the working copy in a folder. Raises `ActionError(not_found)` if there is none."""
        place = Path(os.path.abspath(folder))
        try:
            form = json.loads((place / _BASE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            name = storable_text(place.name)
            raise ActionError(ErrorCode.NOT_FOUND, f"there is no working copy {name!r}", {"folder": name}) from None
        base = {path: Node(**node) for path, node in form["base"].items()}
        return cls(place, Path(form["module_root"]), base, frozenset(form["left_out"]))

    def changes(self) -> tuple[FileChange, ...]:
        """Return the files and links that were added, modified or removed in the copy, sorted by path."""
        return tuple(
            change
            for change in self.all_changes()
            if any(node is not None and node.kind != "folder" for node in (change.before, change.after))
        )

    def all_changes(self, should_continue: Callable[[], None] = lambda: None) -> tuple[FileChange, ...]:
        """Return the same changes, and those of folders. `should_continue` is called repeatedly; its error ends it."""
        return compare(self.base, scan(self.root, should_continue))

    def diff(self) -> str:
        """Return the changes as a diff in git's form. Binary files, texts that are not UTF-8, and files of more than
        4 MiB are only named.

        Raises `ActionError(conflict)` if a file that was changed here has changed in the module too.
        """
        return "".join(map(self._diff_of, self.changes()))

    def changes_of_module(self, should_continue: Callable[[], None] = lambda: None) -> tuple[FileChange, ...]:
        """Return the changes of the module itself since the copy was created, folders included; `should_continue` as
        above."""
        now = {
            path: node for path, node in scan(self.module_root, should_continue).items() if path not in self.left_out
        }
        return compare(self.base, now)

    def drop(self) -> None:
        """Remove the copy. A missing copy is not an error."""
        remove_own_tree(self.folder)
        with os_error_message("look beside", self.folder):
            leftovers = list(self.folder.parent.glob(f".{self.folder.name}.*.making"))
        for leftover in leftovers:
            remove_own_tree(leftover)

    def _diff_of(self, change: FileChange) -> str:
        path = change.path
        before, after = (
            None if node is None or node.kind == "folder" else node for node in (change.before, change.after)
        )
        if before and after and before.kind != after.kind:
            # Git shows one removed and one added file.
            return self._diff_of(replace(change, after=None)) + self._diff_of(replace(change, before=None))
        header = _header(path, before, after)
        if before and after and (before.sha256, before.link) == (after.sha256, after.link):
            return header
        old = self._text(self.module_root, path, before)
        new = self._text(self.root, path, after)
        if isinstance(old, bytes) or isinstance(new, bytes):
            old_name = "/dev/null" if before is None else _name(f"a/{path}")
            new_name = "/dev/null" if after is None else _name(f"b/{path}")
            return f"{header}Binary files {old_name} and {new_name} differ\n"
        return header + (unified_diff(old, new, path) if old or new else "")

    def _text(self, root: Path, path: str, node: Node | None) -> str | bytes | None:
        """Return the text of a file at the time of the scan; bytes if a diff does not show it."""
        if node is None:
            return None
        if node.kind == "link":
            return node.link
        if node.size > MAX_DIFF_BYTES:
            return b""
        content = _read(root / path)
        if sha256(content).hexdigest() != node.sha256:
            shown = storable_text(path)
            raise ActionError(ErrorCode.CONFLICT, f"{shown!r} was changed meanwhile; try again", {"path": shown})
        try:
            return content if b"\0" in content else content.decode()
        except UnicodeDecodeError:
            return content


def real_root(root: str | os.PathLike[str]) -> Path:
    """Return a module's root after following links. Raises `MissingModuleError` if it is not a folder."""
    try:
        found = Path(os.path.realpath(root))
        exists = found.is_dir()
    except (OSError, ValueError):
        # The name is too long or impossible on this system.
        exists = False
    if not exists:
        raise no_root(root)
    return found


def remove_own_tree(folder: Path) -> None:
    """Remove a folder of the engine with its contents, also if it is read-only. A missing folder is not an error. If it
    is a link, the link is removed and not its target."""
    with os_error_message("remove", folder):
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        elif folder.is_dir():
            remove_tree(folder)


def make_writable(folder: Path) -> None:
    """Make a folder of the engine, and its subfolders, writable. Raises `OSError`."""
    folder.chmod(0o700)
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o700)


def _exists_error(folder: Path) -> ActionError:
    name = storable_text(folder.name)
    return ActionError(ErrorCode.CONFLICT, f"the folder {name!r} already exists", {"folder": name})


def _copy(
    root: Path, to: Path, limits: CopyLimits, should_continue: Callable[[], None]
) -> tuple[Manifest, frozenset[str]]:
    """Copy the contents of a module. Return the copied nodes, and the links that were left out."""
    copied: dict[str, Node] = {}
    left_out: set[str] = set()
    size = 0

    def take(path: str, mode: int, modified: int, pieces: Iterator[bytes]) -> None:
        nonlocal size
        with open(to / path, "xb", buffering=0) as file:
            for piece in pieces:
                should_continue()
                size += len(piece)
                if size > limits.size:
                    raise _too_large(root, f"{limits.size} bytes")
                file.write(piece)
            os.fchmod(file.fileno(), mode)
            os.utime(file.fileno(), ns=(modified, modified))

    for path, node in nodes(root, take):
        should_continue()
        if len(copied) + len(left_out) >= limits.files:
            raise _too_large(root, f"{limits.files} files, links and folders")
        if node.kind == "link":
            if _leads_out(root, path, node.link):
                left_out.add(path)
                continue
            (to / path).symlink_to(node.link)
        elif node.kind == "folder":
            (to / path).mkdir()
        copied[path] = node
    for path, node in reversed(copied.items()):
        if node.kind == "folder":
            (to / path).chmod(node.mode)
    return copied, frozenset(left_out)


def _too_large(root: Path, limit: str) -> ActionError:
    name = storable_text(root.name)
    return ActionError(
        ErrorCode.UNPROCESSABLE, f"the module {name!r} has more than {limit}, the limit of a copy", {"limit": limit}
    )


def _leads_out(root: Path, path: str, target: str) -> bool:
    """Return whether a link would lead out of a copy: by its text, or by its target."""
    climbs = 0
    if target.startswith("/"):
        return True
    for name in [*path.split("/")[:-1], *target.split("/")]:
        climbs += -1 if name == ".." else name not in ("", ".")
        if climbs < 0:
            return True
    led = Path(os.path.realpath(root / path))
    return led != root and root not in led.parents


def _read(path: Path) -> bytes:
    """Return the contents of a file; empty contents if it cannot be read."""
    try:
        with open(path, "rb", opener=open_file) as file:
            return file.read(MAX_DIFF_BYTES + 1)
    except OSError:
        return b""


def _header(path: str, before: Node | None, after: Node | None) -> str:
    """Return the lines of git's diff before the hunks of a file; none if git would show no change."""
    lines = [f"diff --git {_name(f'a/{path}')} {_name(f'b/{path}')}\n"]
    if before is None and after is not None:
        lines.append(f"new file mode {_mode(after)}\n")
    elif before is not None and after is None:
        lines.append(f"deleted file mode {_mode(before)}\n")
    elif before is not None and after is not None and _mode(before) != _mode(after):
        lines += [f"old mode {_mode(before)}\n", f"new mode {_mode(after)}\n"]
    elif before is not None and after is not None and before.sha256 == after.sha256 and before.kind == "file":
        return ""
    return "".join(lines)


def _name(name: str) -> str:
    return shown_name(name).rstrip("\t")


def _mode(node: Node) -> str:
    return "120000" if node.kind == "link" else "100755" if node.executable else "100644"
