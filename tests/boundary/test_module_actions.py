"""The module actions that come with the library."""

from __future__ import annotations

import base64
import os
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.modules import admit, code_of, do, perform, tree
from tests.boundary.repositories import git, make_repository

A = "alpha\nbeta\n"


@pytest.fixture
def root(root: Path) -> Path:
    (root / "a.txt").write_text(A)
    return root


def refused(root: Path, action: str, /, **input: Any) -> ActionError:
    before = tree(root)
    with pytest.raises(ActionError) as caught:
        do(root, action, **input)
    assert tree(root) == before
    return caught.value


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "module", {"a.txt": A})


def test_each_action_says_what_it_needs() -> None:
    assert {action.name: sorted(action.capabilities) for action in MODULE_ACTIONS} == {
        "read": ["fs:read"],
        "write": ["fs:write"],
        "list": ["fs:read"],
        "delete": ["fs:write"],
        "run": ["cmd:run"],
        "diff": ["git:diff"],
        "edit_file": ["fs:read", "fs:write"],
    }


def test_a_text_is_read_as_text_and_other_bytes_as_base64(root: Path) -> None:
    (root / "image").write_bytes(b"\xff\0")

    text = do(root, "read", path="a.txt")
    image = do(root, "read", path="image")

    assert text == {"path": "a.txt", "text": A, "size": 11, "sha256": sha256(A.encode()).hexdigest()}
    assert base64.b64decode(image["base64"]) == b"\xff\0"
    assert refused(root, "read", path="none").code is ErrorCode.NOT_FOUND


def test_what_is_written_is_read(root: Path) -> None:
    do(root, "write", path="sub/tool.sh", text="#!/bin/sh\n", executable=True)
    written = do(root, "write", path="image", base64=base64.b64encode(b"\xff\0").decode())

    assert (root / "sub/tool.sh").stat().st_mode & 0o100
    assert (root / "image").read_bytes() == b"\xff\0"
    assert written == {"path": "image", "size": 2, "sha256": sha256(b"\xff\0").hexdigest()}


def test_a_file_is_written_only_where_it_is_as_expected(root: Path) -> None:
    known = do(root, "read", path="a.txt")["sha256"]

    def write(path: str, expected: str) -> Any:
        input = {"path": path, "text": "new", "expected_sha256": expected}
        return perform(admit(root, "write", input, capabilities=("fs:read", "fs:write"))).output

    write("a.txt", known)
    write("b.txt", "absent")
    for path, expected in (("a.txt", known), ("a.txt", "absent"), ("c.txt", known)):
        assert code_of(partial(write, path, expected)) is ErrorCode.CONFLICT

    assert sorted(tree(root)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("action", "input"),
    [
        ("write", {"path": "x"}),
        ("write", {"path": "x", "text": "a", "base64": "YQ=="}),
        ("write", {"path": "x", "base64": "%"}),
        ("write", {"path": "x", "text": "\ud800"}),
        ("write", {"path": "x", "text": "a", "expected_sha256": "ABC"}),
        ("write", {"path": "x", "text": "a", "colour": "red"}),
        ("run", {"argv": []}),
        ("run", {"argv": ["true"], "timeout": 0}),
        ("edit_file", {"path": "a.txt", "diff": "no diff"}),
    ],
    ids=range(9),
)
def test_an_input_that_is_none_is_refused_at_the_boundary(root: Path, action: str, input: dict[str, Any]) -> None:
    assert refused(root, action, **input).code is ErrorCode.INVALID_INPUT


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "", "."])
@pytest.mark.parametrize("action", ["read", "write", "delete", "edit_file", "diff"])
def test_a_path_that_leads_out_is_refused(root: Path, action: str, path: str) -> None:
    further = {"write": {"text": "a"}, "edit_file": {"diff": unified_diff("a\n", "b\n", "x")}}.get(action, {})

    assert isinstance(refused(root, action, path=path, **further), PathEscapeError)


def test_a_list_has_files_and_links(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub/link").symlink_to("../a.txt")
    (root / os.fsdecode(b"odd\xff")).write_text("")

    listed = do(root, "list")["entries"]

    assert listed[0] == {"path": "a.txt", "size": 11, "executable": False, "link": None}
    assert [entry["path"] for entry in listed] == ["a.txt", "odd?", "sub/link"]
    assert do(root, "list", folder="sub")["entries"][0]["link"] == "../a.txt"


def test_a_file_is_deleted(root: Path) -> None:
    assert do(root, "delete", path="a.txt") == {"path": "a.txt"}
    assert tree(root) == {}


def test_a_command_that_fails_is_a_result(root: Path) -> None:
    ran = do(root, "run", argv=["sh", "-c", "cat; printf 'bad \\377' >&2; exit 3"], stdin="given")

    assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (3, "given", "bad \N{REPLACEMENT CHARACTER}")
    assert refused(root, "run", argv=["no-such-program"]).code is ErrorCode.UNPROCESSABLE


def test_an_edit_is_applied_wholly_or_not_at_all(root: Path) -> None:
    (root / "a.txt").chmod(0o755)

    edited = do(root, "edit_file", path="a.txt", diff=unified_diff(A, "alpha\ngamma\ndelta\n", "a.txt"))

    assert (root / "a.txt").read_text() == "alpha\ngamma\ndelta\n"
    assert (root / "a.txt").stat().st_mode & 0o777 == 0o755
    assert edited == {
        "path": "a.txt",
        "sha256": sha256((root / "a.txt").read_bytes()).hexdigest(),
        "added": 2,
        "removed": 1,
    }
    again = refused(root, "edit_file", path="a.txt", diff=unified_diff(A, "alpha\ngamma\ndelta\n", "a.txt"))
    assert (again.code, again.details["hunk"]) == (ErrorCode.UNPROCESSABLE, 1)
    assert again.details["found"] == ["alpha\n", "gamma\n"]


def test_an_edit_makes_and_removes_files(root: Path) -> None:
    do(root, "edit_file", path="sub/new.txt", diff=unified_diff(None, "new\n", "sub/new.txt"))
    removed = do(root, "edit_file", path="a.txt", diff=unified_diff(A, None, "a.txt"))

    assert sorted(tree(root)) == ["sub", "sub/new.txt"]
    assert removed == {"path": "a.txt", "sha256": None, "added": 0, "removed": 2}


def test_a_diff_tells_what_differs_from_the_last_commit(repository: Path) -> None:
    (repository / "b.txt").write_text("b\n")
    git(repository, "add", "b.txt")
    (repository / "a.txt").write_text("alpha\ngamma\n")

    whole = do(repository, "diff")["diff"]

    assert whole == git(repository, "diff", "HEAD")
    assert do(repository, "diff", path="b.txt")["diff"] == git(repository, "diff", "HEAD", "--", "b.txt")
    (repository / "a.txt").write_text(A)
    assert do(repository, "diff", path="a.txt") == {"diff": ""}


def test_a_diff_works_in_each_state_of_a_repository(root: Path) -> None:
    git(root, "init")
    git(root, "add", ".")
    assert "+alpha" in do(root, "diff")["diff"]

    git(root, "commit", "-m", "first")
    git(root, "pack-refs", "--all")
    git(root, "gc")
    assert do(root, "diff") == {"diff": ""}

    git(root, "checkout", "--detach")
    (root / "a.txt").unlink()
    assert "deleted file mode" in do(root, "diff")["diff"]


def test_a_module_that_is_no_work_tree_by_itself_has_no_diff(root: Path) -> None:
    assert refused(root, "diff").code is ErrorCode.UNPROCESSABLE

    git(root.parent, "init")
    assert refused(root, "diff").code is ErrorCode.UNPROCESSABLE
    (root / ".git").write_text("gitdir: ../.git\n")
    assert refused(root, "diff").code is ErrorCode.UNPROCESSABLE
    (root / ".git").unlink()
    (root / ".git").symlink_to("../.git")
    assert isinstance(refused(root, "diff"), PathEscapeError)


def test_a_repository_that_borrows_objects_is_refused(repository: Path) -> None:
    (repository / ".git/objects/info/alternates").write_text("/somewhere/else\n")

    assert "borrows" in refused(repository, "diff").message


def test_a_work_tree_that_is_broken_is_told(repository: Path) -> None:
    (repository / ".git/refs/heads/main").write_text("0" * 39 + "1\n")

    assert "git cannot compare the module" in refused(repository, "diff").message


def test_nothing_that_a_repository_names_is_run(repository: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\necho sprung >> {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    for name, value in {
        "core.fsmonitor": trap,
        "core.hooksPath": tmp_path,
        "core.pager": trap,
        "core.sshCommand": trap,
        "core.worktree": tmp_path,
        "diff.external": trap,
        "diff.trap.command": trap,
        "diff.trap.textconv": trap,
        "filter.trap.clean": trap,
        "filter.trap.smudge": trap,
        "filter.trap.process": trap,
    }.items():
        git(repository, "config", name, str(value))
    (repository / ".gitattributes").write_text("* filter=trap diff=trap\n")
    (repository / ".git/info/attributes").write_text("* filter=trap diff=trap\n")
    (repository / "a.txt").write_text("alpha\ngamma\n")

    diff = do(repository, "diff")["diff"]

    assert "-beta\n+gamma\n" in diff
    assert not (tmp_path / "sprung").exists()
    git(repository, "config", "--unset", "core.worktree")
    git(repository, "diff", "HEAD")
    assert (tmp_path / "sprung").exists()
