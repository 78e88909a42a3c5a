"""Working copies equal their modules, are separate from them, and know their changes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.idempotency.manifest import nodes, os_error_message
from actionengine.boundary.idempotency.working_copy import CopyLimits, WorkingCopy
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.modules import code_of, tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "module"
    (root / "src/deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.txt").write_text("one\ntwo\n")
    (root / "src/tool").write_text("#!/bin/sh\n")
    (root / "src/tool").chmod(0o755)
    (root / "src/deep/image").write_bytes(b"\x89PNG\0\xff")
    (root / "src/link").symlink_to("../a.txt")
    (root / "folder-link").symlink_to("src/deep")
    (root / "dangling").symlink_to("nowhere")
    return root


def test_a_copy_is_like_its_module(root: Path, tmp_path: Path) -> None:
    os.utime(root / "a.txt", (1, 1))

    copy = WorkingCopy.create(root, tmp_path / "copy")

    assert tree(copy.root) == tree(root)
    assert (copy.root / "a.txt").stat().st_mtime == 1
    assert (copy.changes(), copy.diff(), copy.left_out) == ((), "", frozenset())


def test_links_that_lead_out_are_left_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (root / "up").symlink_to("..")
    links = {
        "absolute": str(root / "a.txt"),
        "elsewhere": "/etc/passwd",
        "out": "../secret",
        "by-name": "../module/a.txt",
        "src/climbs": "../../secret",
        "through": "up/secret",
        "src/through-folder": "link/../../../secret",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)

    copy = WorkingCopy.create(root, tmp_path / "copy")

    assert copy.left_out == {"up", *links}
    assert copy.changes() == ()
    assert copy.changes_of_module() == ()
    for folder, _, files in os.walk(copy.root):
        for name in files:
            led = Path(os.path.realpath(Path(folder, name)))
            assert copy.root in led.parents


def test_what_is_neither_file_nor_link_nor_folder_is_not_copied(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / ".actionengine-tmp-123").write_text("half")

    copy = WorkingCopy.create(root, tmp_path / "copy")

    assert not (copy.root / "pipe").exists()
    assert not (copy.root / ".actionengine-tmp-123").exists()
    assert copy.changes() == copy.changes_of_module() == ()


def test_changes_are_told_and_the_module_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    copy = WorkingCopy.create(root, tmp_path / "copy")
    (copy.root / "a.txt").write_text("one\n2\n")
    (copy.root / "new").mkdir()
    (copy.root / "new/b.txt").write_text("b")
    (copy.root / "src/tool").chmod(0o644)
    (copy.root / "dangling").unlink()
    (copy.root / "empty").rmdir()

    changes = copy.changes()

    assert [(change.path, change.kind) for change in changes] == [
        ("a.txt", "modified"),
        ("dangling", "removed"),
        ("new/b.txt", "added"),
        ("src/tool", "modified"),
    ]
    assert {change.path for change in copy.all_changes()} - {change.path for change in changes} == {"empty", "new"}
    assert tree(root) == before


def test_a_diff_shows_texts_and_names_the_rest(root: Path, tmp_path: Path) -> None:
    copy = WorkingCopy.create(root, tmp_path / "copy")
    (copy.root / "a.txt").write_text("one\n2\n")
    (copy.root / "b c.txt").write_text("")
    (copy.root / "src/deep/image").write_bytes(b"\0")
    (copy.root / "src/tool").chmod(0o644)
    (copy.root / "src/link").unlink()
    (copy.root / "src/link").write_text("a file now")

    assert copy.diff() == (
        "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
        "diff --git a/b c.txt b/b c.txt\nnew file mode 100644\n"
        "diff --git a/src/deep/image b/src/deep/image\nBinary files a/src/deep/image and b/src/deep/image differ\n"
        "diff --git a/src/link b/src/link\ndeleted file mode 120000\n--- a/src/link\n+++ /dev/null\n"
        "@@ -1 +0,0 @@\n-../a.txt\n\\ No newline at end of file\n"
        "diff --git a/src/link b/src/link\nnew file mode 100644\n--- /dev/null\n+++ b/src/link\n"
        "@@ -0,0 +1 @@\n+a file now\n\\ No newline at end of file\n"
        "diff --git a/src/tool b/src/tool\nold mode 100755\nnew mode 100644\n"
    )


names = st.sampled_from(["a", "b c", "d/e", "d/f", "d/g/h", 'q"uote', "straße", "tab\there", "line\nfeed"])
contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
made = st.dictionaries(names, st.tuples(st.sampled_from(["file", "tool", "link"]), contents | st.just("x\ny\nz\n")))


def put(root: Path, files: dict[str, tuple[str, str]]) -> None:
    for name, (kind, text) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(f"to{len(text)}")
        else:
            path.write_bytes(text.encode())
            path.chmod(0o755 if kind == "tool" else 0o644)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(before=made, after=made)
def test_git_makes_of_the_module_what_a_diff_says(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]
) -> None:
    place = tmp_path_factory.mktemp("module")
    root = place / "root"
    root.mkdir()
    put(root, before)
    copy = WorkingCopy.create(root, place / "copy")
    for name in before:
        (copy.root / name).unlink()
    put(copy.root, after)

    diff = copy.diff()

    if diff:
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(command, cwd=root, input=os.fsencode(diff), check=True)
    of_files = [{path: what for path, what in tree(each).items() if what[0] != "folder"} for each in (root, copy.root)]
    assert of_files[0] == of_files[1]


def test_a_copy_is_found_again_by_another_process(root: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"odd\xff\n")
    (root / odd).write_text("x")
    made = WorkingCopy.create(root, tmp_path / "copy")
    (made.root / odd).write_text("y")

    found = WorkingCopy.open(tmp_path / "copy")

    assert (found.base, found.left_out, found.module_root) == (made.base, made.left_out, root)
    assert found.diff() == 'diff --git "a/odd\\377\\012" "b/odd\\377\\012"\n' + (
        '--- "a/odd\\377\\012"\n+++ "b/odd\\377\\012"\n@@ -1 +1 @@\n-x\n\\ No newline at end of file\n'
        "+y\n\\ No newline at end of file\n"
    )
    assert code_of(lambda: WorkingCopy.open(tmp_path / "none")) is ErrorCode.NOT_FOUND


def test_a_diff_against_a_module_that_was_changed_is_a_conflict(root: Path, tmp_path: Path) -> None:
    copy = WorkingCopy.create(root, tmp_path / "copy")
    (copy.root / "a.txt").write_text("mine")
    (root / "a.txt").write_text("theirs")

    assert code_of(lambda: copy.diff()) is ErrorCode.CONFLICT
    assert [change.path for change in copy.changes_of_module()] == ["a.txt"]


@pytest.mark.parametrize("put", ["fifo", "link"])
def test_a_folder_replaced_while_it_is_read_is_a_conflict(root: Path, put: str) -> None:
    def pass_over(path: str, mode: int, modified: int, pieces: Iterator[bytes]) -> None:
        assert list(pieces) is not None

    found = nodes(root, pass_over)
    assert "src" in (path for path, _ in found)
    (root / "src").rename(root / "away")
    os.mkfifo(root / "src") if put == "fifo" else (root / "src").symlink_to("away")

    assert code_of(lambda: list(found)) is ErrorCode.CONFLICT


def test_an_error_of_an_open_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ActionError) as caught, os_error_message("read", tmp_path):
        raise OSError(errno.EIO, "broken", 7)

    assert caught.value.code is ErrorCode.UNAVAILABLE


def test_a_dropped_copy_is_gone_whatever_its_permissions(root: Path, tmp_path: Path) -> None:
    (root / "src").chmod(0o555)
    copy = WorkingCopy.create(root, tmp_path / "copy")
    (copy.root / "src/deep").chmod(0)
    (tmp_path / ".copy.0123456789abcdef.making").mkdir()

    copy.drop()
    copy.drop()

    assert os.listdir(tmp_path) == ["module"]
    (root / "src").chmod(0o755)


def test_a_folder_that_is_there_is_not_replaced(root: Path, tmp_path: Path) -> None:
    WorkingCopy.create(root, tmp_path / "copy")

    assert code_of(lambda: WorkingCopy.create(root, tmp_path / "copy")) is ErrorCode.CONFLICT
    assert sorted(os.listdir(tmp_path)) == ["copy", "module"]


def test_a_module_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingModuleError):
        WorkingCopy.create(tmp_path / "none", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limits", [CopyLimits(files=5), CopyLimits(size=20)], ids=["files", "bytes"])
def test_a_module_that_is_too_large_is_refused_without_traces(root: Path, tmp_path: Path, limits: CopyLimits) -> None:
    with pytest.raises(ActionError) as caught:
        WorkingCopy.create(root, tmp_path / "copy", limits)

    assert caught.value.code is ErrorCode.UNPROCESSABLE
    assert "the limit of a copy" in caught.value.message
    assert os.listdir(tmp_path) == ["module"]


def test_a_copy_is_there_wholly_or_not_at_all(root: Path, tmp_path: Path) -> None:
    for number in range(300):
        (root / f"{number}.txt").write_text("x" * number)
    script = f"""
import os, signal, time
from actionengine.boundary.idempotency.working_copy import WorkingCopy
for delay in range(6):
    child = os.fork()
    if child == 0:
        WorkingCopy.create({str(root)!r}, f"{tmp_path}/copy-{{delay}}")
        os._exit(0)
    time.sleep(delay * 0.008)
    os.kill(child, signal.SIGKILL)
    os.wait()
"""
    subprocess.run([sys.executable, "-c", script], check=True)

    for place in tmp_path.glob("copy-*"):
        assert tree(WorkingCopy.open(place).root) == tree(root)
