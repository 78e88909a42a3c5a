"""A diff of a git work tree shows nothing outside its module, wherever its repository leads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha1
from pathlib import Path

import pytest

from actionengine.boundary.commands.processes import CompletedCommand, run_process
from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files import git_snapshot
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.git import diff_from_last_commit
from actionengine.boundary.files.git_snapshot import GitSnapshot
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.modules import do
from tests.boundary.repositories import git, make_repository

SECRET = "the secret of another tenant"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "mine", {"a.txt": "alpha\n", "folder/b.txt": "beta\n"})


@pytest.fixture(params=["loose", "packed"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Another tenant's repository, in which the same names have a secret."""
    root = make_repository(tmp_path / "theirs", {"a.txt": SECRET, "folder/b.txt": SECRET, "salaries": SECRET})
    if request.param == "packed":
        git(root, "repack", "-adq")
    return root


def replaced(path: Path, target: Path) -> None:
    """Replace a path by a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def link_all_in(folder: Path, others: Path) -> None:
    folder.mkdir(exist_ok=True)
    for each in others.iterdir():
        replaced(folder / each.name, each)


def link_objects(mine: Path, theirs: Path) -> None:
    replaced(mine / ".git/objects", theirs / ".git/objects")


def link_folders_of_objects(mine: Path, theirs: Path) -> None:
    link_all_in(mine / ".git/objects", theirs / ".git/objects")


def link_each_object(mine: Path, theirs: Path) -> None:
    for folder in (theirs / ".git/objects").iterdir():
        link_all_in(mine / ".git/objects" / folder.name, folder)


def link_info(mine: Path, theirs: Path) -> None:
    (theirs / "alternates").write_text(f"{theirs}/.git/objects\n")
    replaced(mine / ".git/objects/info/alternates", theirs / "alternates")


def link_git(mine: Path, theirs: Path) -> None:
    replaced(mine / ".git", theirs / ".git")


def link_index(mine: Path, theirs: Path) -> None:
    replaced(mine / ".git/index", theirs / ".git/index")
    link_each_object(mine, theirs)


def chain_of_links(mine: Path, theirs: Path) -> None:
    (mine / "way").symlink_to(theirs)
    replaced(mine / ".git/objects/pack", Path("../../way/.git/objects/pack"))
    for each in (theirs / ".git/objects").iterdir():
        replaced(mine / ".git/objects" / each.name, Path("../../way/.git/objects") / each.name)


@pytest.mark.parametrize(
    "link",
    [
        link_objects,
        link_folders_of_objects,
        link_each_object,
        link_info,
        link_git,
        link_index,
        chain_of_links,
    ],
    ids=lambda each: each.__name__,
)
def test_a_link_into_another_repository_is_refused(
    link: Callable[[Path, Path], None], mine: Path, theirs: Path
) -> None:
    commit = git(theirs, "rev-parse", "HEAD")
    (mine / ".git/refs/heads/main").write_text(commit)
    link(mine, theirs)

    with pytest.raises(ActionError) as caught:
        do(mine, "diff")

    assert caught.value.code in (ErrorCode.INVALID_INPUT, ErrorCode.UNPROCESSABLE)
    assert SECRET not in str(caught.value.to_dict())


@pytest.mark.parametrize("name", [".git/objects", ".git/objects/pack", ".git/index"])
def test_a_link_is_refused_that_stays_inside_too(name: str, mine: Path) -> None:
    git(mine, "repack", "-adq")
    (mine / name).rename(mine / "elsewhere")
    (mine / name).symlink_to(os.path.relpath(mine / "elsewhere", (mine / name).parent))

    with pytest.raises(PathEscapeError, match="without following links") as caught:
        do(mine, "diff")
    assert caught.value.details["path"] == name


@pytest.mark.parametrize("name", ["pack/pack-" + "0" * 40 + ".pack", "ab/" + "0" * 38])
def test_a_fifo_among_the_objects_is_refused_without_waiting(name: str, mine: Path) -> None:
    place = mine / ".git/objects" / name
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)

    with pytest.raises(PathEscapeError, match="it is not one"):
        do(mine, "diff")


@pytest.mark.parametrize("name", ["commit-graph", "commit-graphs", "packs"])
def test_what_git_can_do_without_is_not_looked_at(name: str, mine: Path, theirs: Path) -> None:
    (mine / ".git/objects/info" / name).symlink_to(theirs)
    (mine / ".git/objects/pack/multi-pack-index").symlink_to(theirs)

    assert do(mine, "diff") == {"diff": ""}


def test_a_file_behind_a_link_is_not_there(mine: Path, theirs: Path) -> None:
    replaced(mine / "folder", theirs / "folder")
    replaced(mine / "a.txt", theirs / "a.txt")

    diff = do(mine, "diff")["diff"]

    assert SECRET not in diff
    assert "-beta" in diff
    assert f"+{theirs}/a.txt" in diff
    assert diff == git(mine, "diff", "HEAD")


@pytest.mark.parametrize(
    "name", [b"../theirs/salaries", b"/etc/hostnames.txt", b"folder/../../salar", b".GIT/configfile"]
)
def test_an_index_that_names_what_no_module_has_is_refused(name: bytes, mine: Path, tmp_path: Path) -> None:
    """Git does not write such an index, but reads a handmade one."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/salaries").write_text(SECRET)
    placeholder = b"x" * len(name)
    (mine / os.fsdecode(placeholder)).write_text("x")
    git(mine, "add", ".")
    index = mine / ".git/index"
    content = index.read_bytes()[:-20]
    assert content.count(placeholder) == 1
    content = content.replace(placeholder, name)
    index.write_bytes(content + sha1(content).digest())

    with pytest.raises(PathEscapeError, match="index names it"):
        do(mine, "diff")


def swapping(root: Path, swap: Callable[[int], None]) -> Callable[..., CompletedCommand]:
    """Runs git as work does, after a change in the module."""
    turns = iter(range(100))

    def run(argv: Sequence[str], folder: int, reached: int, environment: Mapping[str, str]) -> CompletedCommand:
        swap(next(turns))
        return run_process(argv, folder=folder, environment=environment, timeout=60.0)

    return run


@pytest.mark.parametrize("turn", [0, 1])
def test_what_is_swapped_while_git_runs_changes_nothing(turn: int, mine: Path, theirs: Path) -> None:
    (mine / "a.txt").write_text("gamma\n")
    expected = git(mine, "diff", "HEAD")

    def swap(now: int) -> None:
        if now == turn:
            link_each_object(mine, theirs)
            replaced(mine / ".git/index", theirs / ".git/index")
            if turn == 1:
                replaced(mine / "folder", theirs / "folder")
                replaced(mine / "a.txt", theirs / "a.txt")

    with ModuleFiles(mine) as files:
        assert diff_from_last_commit(files, swapping(mine, swap)) == expected


def check_swapped_while_copied(mine: Path, theirs: Path, points: Sequence[int]) -> None:
    """Replace everything by links at one point of the copying, and check the diff."""
    (mine / ".git/refs/heads/main").write_text(git(theirs, "rev-parse", "HEAD"))
    told = []
    for point in points:
        root = mine.with_name(f"turn-{point}")
        shutil.copytree(mine, root)
        calls = iter(range(10_000))

        def swap(root: Path = root, calls: Iterator[int] = calls, point: int = point) -> None:
            if next(calls) == point:
                link_each_object(root, theirs)
                replaced(root / "folder", theirs / "folder")
                replaced(root / "a.txt", theirs / "a.txt")

        with ModuleFiles(root) as files:
            try:
                told.append(diff_from_last_commit(files, swapping(root, lambda _: None), None, swap))
            except ActionError as refusal:
                told.append(str(refusal.to_dict()))
    assert SECRET not in "".join(told)


def test_what_is_swapped_while_it_is_copied_is_never_followed(mine: Path, theirs: Path) -> None:
    check_swapped_while_copied(mine, theirs, (0, 5, 20))


@pytest.mark.soak
def test_at_no_point_of_the_copying_is_it_followed(mine: Path, theirs: Path) -> None:
    check_swapped_while_copied(mine, theirs, range(80))


def test_files_are_not_written_through_links_of_the_copy(mine: Path, tmp_path: Path) -> None:
    """An index that names a link and files below it, and a module in which it is now one, now the other."""
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    tree.mkdir()
    (mine / "both").symlink_to(outside)
    swapped = []

    with ModuleFiles(mine) as files, GitSnapshot(files, lambda: None) as snapshot:
        copy = snapshot._copy_tracked

        def copy_and_swap(name: bytes, place: bytes) -> bytes | None:
            if name == b"both/file":
                replaced(mine / "both", outside)
                (mine / "both").unlink()
                (mine / "both").mkdir()
                (mine / "both/file").write_text("written")
                swapped.append(name)
            return copy(name, place)

        snapshot._copy_tracked = copy_and_swap  # type: ignore[method-assign]
        with pytest.raises(ActionError):
            snapshot.copy_files([b"both", b"both/file"], tree)

    assert swapped
    assert list(outside.iterdir()) == []


# The output


def conflicting(root: Path) -> None:
    git(root, "checkout", "-qb", "side")
    (root / "a.txt").write_text("side\n")
    git(root, "commit", "-qam", "side")
    git(root, "checkout", "-q", "main")
    (root / "a.txt").write_text("main\n")
    git(root, "commit", "-qam", "main")
    with pytest.raises(Exception, match="exit status 1"):
        git(root, "merge", "-q", "side")


def odd_names(root: Path) -> None:
    for name in ("new\nline", "tab\t", "ünï", "sp ace", "back\\slash", 'quo"te', os.fsdecode(b"latin-\xe9")):
        (root / name).write_text("new\n")
    git(root, "add", ".")


def other_kinds(root: Path) -> None:
    (root / "link").symlink_to("a.txt")
    (root / "dangling").symlink_to("/no/such")
    (root / "binary").write_bytes(b"\0\1\2" * 100)
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "fifo").write_text("x")
    git(root, "add", ".")
    git(root, "commit", "-qm", "kinds")
    (root / "tool").chmod(0o755)
    (root / "binary").write_bytes(b"\0\1\3" * 100)
    (root / "link").unlink()
    (root / "link").symlink_to("folder")
    (root / "fifo").unlink()
    (root / "a.txt").unlink()
    (root / "a.txt").mkdir()
    (root / "a.txt/within").write_text("new")


def attributes(root: Path) -> None:
    (root / ".gitattributes").write_text("a.txt binary\n")
    (root / "folder/.gitattributes").write_text("*.txt -diff\n")
    (root / "a.txt").write_text("changed\n")
    (root / "folder/b.txt").write_text("changed\n")


def removed_from_the_index(root: Path) -> None:
    git(root, "rm", "-q", "--cached", "a.txt")
    (root / "new").write_text("new\n")
    git(root, "add", "-N", "new")


def submodule(root: Path) -> None:
    inner = make_repository(root / "inner", {"c.txt": "c\n"})
    git(root, "add", "inner")
    git(root, "commit", "-qm", "inner")
    (inner / "c.txt").write_text("changed\n")
    (root / "a.txt").write_text("changed\n")


def nothing(root: Path) -> None: ...


def no_index(root: Path) -> None:
    (root / ".git/index").unlink()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        *((each, None) for each in (conflicting, odd_names, other_kinds, attributes, removed_from_the_index)),
        *((each, None) for each in (submodule, nothing, no_index)),
        *((each, "folder") for each in (attributes, other_kinds)),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_it_says_what_git_says(change: Callable[[Path], None], path: str | None, mine: Path) -> None:
    change(mine)

    only = () if path is None else ("--", path)
    expected = git(mine, "-c", "core.quotePath=false", "diff", "--ignore-submodules=all", "--no-renames", "HEAD", *only)
    assert do(mine, "diff", path=path)["diff"] == expected


# Limits


def test_more_than_it_may_copy_is_refused(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MAX_BYTES", 100), ("MAX_FILES", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(git_snapshot, name, most)
            with pytest.raises(ActionError, match=f"{most} .*git gc") as caught:
                do(mine, "diff")
            assert caught.value.code is ErrorCode.UNPROCESSABLE


def test_the_bound_is_exact(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for least, ok in ((11, True), (10, False)):
        tree = tmp_path / f"tree-{least}"
        tree.mkdir()
        monkeypatch.setattr(git_snapshot, "MAX_BYTES", least)
        with ModuleFiles(mine) as files, GitSnapshot(files, lambda: None) as snapshot:
            try:
                snapshot.copy_files([b"a.txt", b"folder/b.txt"], tree)
            except ActionError:
                assert not ok
            else:
                assert ok


def test_it_ends_where_the_work_does(mine: Path, temporary: Path) -> None:
    def stop() -> None:
        raise stopped

    stopped = PathEscapeError("stopped")
    with ModuleFiles(mine) as files, pytest.raises(ActionError, match="stopped"):
        diff_from_last_commit(files, swapping(mine, lambda _: None), None, stop)

    assert os.listdir(temporary) == []


def test_nothing_is_left_of_a_copy(mine: Path, temporary: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))

    do(mine, "diff")
    (mine / ".git/objects/ab").symlink_to("/")
    with pytest.raises(PathEscapeError):
        do(mine, "diff")

    assert os.listdir(temporary) == []
    assert set(os.listdir("/proc/self/fd")) == before


def test_many_names_are_more_than_a_command_may_print(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "many", {"a.txt": "a\n"})
    entry = git(root, "rev-parse", "HEAD:a.txt").strip()
    names = [f"{number:05}-{'x' * 200}" for number in range(6000)]
    git(root, "update-index", "--index-info", stdin="".join(f"100644 {entry} 0\t{name}\n" for name in names))
    (root / names[0]).write_text("changed\n")

    diff = do(root, "diff", path=names[0])["diff"]

    assert "\n+changed\n" in diff
    assert do(root, "diff")["diff"] == diff
