"""The differences of a git work tree from its last commit, found without running any code from the work tree.

A repository's configuration and attributes can name programs: filters, text converters, diff drivers, hooks, monitors,
transports. Each file that git opens can be a link into another repository, or become one while git runs. So git never
sees a module: it gets a snapshot, a new repository with copies of the module's objects and index, and of the files that
the index names; see `git_snapshot`. This module reads the other files in `.git` itself, without leaving the module.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from actionengine.boundary.commands.processes import SEARCH_PATH, CompletedCommand
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.git_snapshot import GitSnapshot
from actionengine.boundary.files.paths import module_path
from actionengine.boundary.files.safe_open import FOLDER, closing
from actionengine.errors import ActionError, ErrorCode

Run = Callable[[Sequence[str], int, int, Mapping[str, str]], CompletedCommand]
"""`run(argv, folder, root, environment)` runs a command in `folder`; it reaches only files below `root`."""

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_COMMIT = re.compile(r"[0-9a-f]{40}").fullmatch
_MAX_REFS_BYTES = 16 * 1024 * 1024
_MAX_NAMES_BYTES = 64 * 1024 * 1024
_GIT = (
    *("git", "--no-pager", "--literal-pathspecs"),
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null"),
    *("-c", "protocol.allow=never", "-c", "core.quotePath=false"),
)
# The output goes to a file, since it may exceed a command's limit.
_LIST = ("sh", "-c", 'exec "$@" >../names', "sh", *_GIT, "ls-files", "-z", "--cached", "--")
_DIFF = (
    *_GIT,
    # A submodule has a repository of its own, whose configuration git would use.
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--ignore-submodules=all"),
)
_ENVIRONMENT = {
    "GIT_DIR": "../repository",
    "GIT_WORK_TREE": ".",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CEILING_DIRECTORIES": "/",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}


def diff_from_last_commit(
    files: ModuleFiles, run: Run, path: str | None = None, should_continue: Callable[[], None] = lambda: None
) -> str:
    """Return the differences of the files that git tracks from the last commit, in the form of `git diff HEAD`, for the
    whole module or one path. The module's root must be the root of a git work tree. Bytes that are not UTF-8 become
    replacement characters.

    `should_continue` is called repeatedly; its error ends the work.

    Raises:
        PathEscapeError: for a link among the objects, or in place of the index, and for an index that names files
            outside the module.
        ActionError: `unprocessable` for a module that is not such a work tree (linked work trees and repositories that
            borrow objects lead out of the module), whose repository git cannot read, or that is too large for a
            snapshot; `unavailable` if git is not installed.
    """
    if path is not None:
        module_path(path)
    if shutil.which("git", path=SEARCH_PATH) is None:
        raise ActionError(ErrorCode.UNAVAILABLE, "git is not installed on the machine of this work")
    commit = _last_commit(files)
    if files.stat(".git/objects/info/alternates") is not None:
        raise _no_work_tree("its repository borrows objects from another repository")
    only = () if path is None else (path,)
    with tempfile.TemporaryDirectory(prefix="actionengine-", ignore_cleanup_errors=True) as folder:
        repository, tree = Path(folder, "repository"), Path(folder, "tree")
        _make_repository(repository, commit)
        tree.mkdir()
        with closing(os.open(folder, FOLDER)) as root, closing(os.open(tree, FOLDER)) as cwd:
            with GitSnapshot(files, should_continue) as snapshot:
                snapshot.copy_repository(repository)
                _check_ended(run((*_LIST, *only), cwd, root, _ENVIRONMENT))
                snapshot.copy_files(_names(Path(folder, "names")), tree)
            finished = run((*_DIFF, commit, "--", *only), cwd, root, _ENVIRONMENT)
    _check_ended(finished)
    return finished.stdout.decode("utf-8", "replace")


def _check_ended(finished: CompletedCommand) -> None:
    if finished.exit_code:
        reason = finished.stderr.decode("utf-8", "replace").strip()[:500]
        raise ActionError(
            ErrorCode.UNPROCESSABLE, f"git cannot compare the module: {reason}", {"exit_code": finished.exit_code}
        )


def _names(file: Path) -> list[bytes]:
    if file.stat().st_size > _MAX_NAMES_BYTES:
        raise ActionError(ErrorCode.UNPROCESSABLE, "the module's git index names too many files for a diff")
    return file.read_bytes().split(b"\0")[:-1]


def _make_repository(folder: Path, commit: str) -> None:
    """Create an empty repository, at a commit."""
    for name in ("refs", "objects/pack"):
        (folder / name).mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/none\n" if commit == _EMPTY_TREE else f"{commit}\n")
    (folder / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")


def _last_commit(files: ModuleFiles) -> str:
    """Return the commit of HEAD, or the empty tree if there is no commit yet."""
    name = _first_line(files, ".git/HEAD")
    if name is None:
        raise _no_work_tree("it contains no repository")
    if _COMMIT(name):
        return name
    if not name.startswith("ref: refs/"):
        raise _no_work_tree("its HEAD has an unknown form")
    branch = name.removeprefix("ref: ")
    commit = _first_line(files, f".git/{branch}") or _packed(files, branch)
    if commit is None:
        if files.stat(".git/reftable/tables.list") is not None:
            raise _no_work_tree("its branches are stored in a reftable")
        return _EMPTY_TREE
    if not _COMMIT(commit):
        raise _no_work_tree(f"{branch!r} is not a commit with a SHA-1")
    return commit


def _packed(files: ModuleFiles, branch: str) -> str | None:
    for line in (_text(files, ".git/packed-refs") or "").splitlines():
        commit, _, name = line.partition(" ")
        if name == branch:
            return commit
    return None


def _first_line(files: ModuleFiles, path: str) -> str | None:
    text = _text(files, path)
    return None if text is None else text.partition("\n")[0].strip()


def _text(files: ModuleFiles, path: str) -> str | None:
    try:
        return files.read(path, _MAX_REFS_BYTES).decode("utf-8", "replace")
    except ActionError as refusal:
        if refusal.code in (ErrorCode.NOT_FOUND, ErrorCode.UNPROCESSABLE):
            return None
        raise


def _no_work_tree(reason: str) -> ActionError:
    return ActionError(ErrorCode.UNPROCESSABLE, f"the module is not a complete git work tree: {reason}")
