"""Symbolic links in a module are followed inside, and refused if they lead out, also while they are replaced."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files.files import FileEntry, ModuleFiles
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.walled import SECRET, Walled

NUMBERS_OF_OPENAT2 = {"x86_64": 437, "aarch64": 437}
RESOLVE_BENEATH = 0x08
MEANINGS = {
    None: None,
    errno.EXDEV: PathEscapeError,
    errno.ELOOP: PathEscapeError,
    errno.ENOENT: ErrorCode.NOT_FOUND,
    errno.ENOTDIR: ErrorCode.UNPROCESSABLE,
}


class TestInside:
    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("link", "inside.txt"),
            ("link", "./inside.txt"),
            ("link", ".//folder//inside.txt"),
            ("link", "folder/../inside.txt"),
            ("folder/link", "../inside.txt"),
            ("folder/link", "../folder/../folder/inside.txt"),
            ("link", "way/inside.txt"),
            ("link", "way/../inside.txt"),
            ("link", "way/up/inside.txt"),
        ],
    )
    def test_a_link_that_stays_inside_is_followed(
        self, path: str, target: str, files: ModuleFiles, walled: Walled
    ) -> None:
        walled.link("way", "folder")
        walled.link("folder/up", "..")
        walled.link(path, target)

        assert files.read(path) == b"inside"
        files.write(path, b"written through")
        assert (walled.root / path).is_symlink()
        assert (walled.root / path).read_bytes() == b"written through"
        walled.check_outside()

    def test_a_link_to_a_folder_leads_into_it(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("way", "folder/")

        files.write("way/new/file", b"new")

        assert (walled.root / "folder" / "new" / "file").read_bytes() == b"new"
        assert [each.path for each in files.walk("way")] == ["way/inside.txt", "way/new/file"]

    def test_up_from_a_linked_folder_is_up_from_where_it_is(self, files: ModuleFiles, walled: Walled) -> None:
        files.write("deep/down/file", b"deep")
        files.write("deep/beside", b"beside the folder")
        walled.link("way", "deep/down")
        walled.link("link", "way/../beside")

        assert files.read("link") == b"beside the folder"

    def test_a_dangling_link_makes_what_it_names(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link", "not/there/yet")

        with pytest.raises(ActionError) as raised:
            files.read("link")
        files.write("link", b"now")

        assert raised.value.code == ErrorCode.NOT_FOUND
        assert (walled.root / "not" / "there" / "yet").read_bytes() == b"now"

    def test_the_link_itself_is_looked_at_and_deleted(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link", "../outside/secret")

        assert files.stat("link") == FileEntry("link", len("../outside/secret"), False, "../outside/secret")
        files.delete("link")

        assert files.stat("link") is None
        walled.check_outside()

    def test_forty_links_are_followed_and_no_more(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link0", "inside.txt")
        for number in range(1, 41):
            walled.link(f"link{number}", f"link{number - 1}")

        assert files.read("link39") == b"inside"
        with pytest.raises(PathEscapeError, match="40 links"):
            files.read("link40")

    @pytest.mark.parametrize("target", ["folder/.", "folder/..", ".", "folder/", "./folder/../."])
    def test_a_link_to_a_folder_is_no_file(self, target: str, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link", target)

        for call in (files.read, lambda path: files.write(path, b"")):
            with pytest.raises(ActionError) as raised:
                call("link")
            assert raised.value.code == ErrorCode.UNPROCESSABLE

    @pytest.mark.parametrize("target", ["inside.txt/", "inside.txt/.", "inside.txt/..", "inside.txt/../inside.txt"])
    def test_a_file_is_no_folder_on_the_way_of_a_link(self, target: str, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link", target)

        with pytest.raises(ActionError) as raised:
            files.read("link")

        assert raised.value.code == ErrorCode.UNPROCESSABLE

    def test_a_module_that_was_moved_is_still_the_same(self, files: ModuleFiles, walled: Walled) -> None:
        walled.root.rename(walled.root.with_name("moved"))
        walled.root.symlink_to(walled.outside)

        assert files.read("folder/inside.txt") == b"inside"


OUT = {
    "absolute": ("link", "/etc/passwd"),
    "absolute, inside": ("link", "{root}/inside.txt"),
    "to the file system's root": ("link", "/"),
    "two slashes": ("link", "//etc/passwd"),
    "up": ("link", "../outside/secret"),
    "up and back in": ("link", "../module/inside.txt"),
    "up from a folder": ("folder/link", "../../outside/secret"),
    "down and up": ("link", "folder/../../outside/secret"),
    "up through a link": ("link", "way/../../outside/secret"),
    "through a link up": ("link", "folder/up/../outside/secret"),
    "a chain": ("link", "folder/chain"),
    "into proc": ("link", "/proc/self/cwd"),
    "loop": ("link", "link"),
    "loop of two": ("link", "back"),
    "loop in the middle": ("link", "folder/../link/x"),
    "only up": ("link", ".."),
    "far up": ("link", "../" * 60 + "etc/passwd"),
    "beside, with the same beginning": ("link", "../module-evil/secret"),
    "dangling outside": ("link", "../not-there"),
}


class TestOutside:
    @pytest.mark.parametrize(("path", "target"), OUT.values(), ids=OUT)
    def test_a_link_that_leads_out_is_refused(self, path: str, target: str, files: ModuleFiles, walled: Walled) -> None:
        walled.link("way", "folder")
        walled.link("folder/up", "..")
        walled.link("folder/chain", "../../outside/secret")
        walled.link("back", "link")
        walled.link(path, target.format(root=walled.root))

        calls: list[Callable[[str], object]] = [
            files.read,
            lambda path: files.write(path, b"mine"),
            files.open_folder,
            lambda path: list(files.walk(path)),
            lambda path: files.read(f"{path}/secret"),
            lambda path: files.write(f"{path}/secret", b"mine"),
            lambda path: files.write(f"{path}/new/file", b"mine"),
            lambda path: files.delete(f"{path}/secret"),
            lambda path: files.stat(f"{path}/secret"),
        ]
        for call in calls:
            with pytest.raises(PathEscapeError):
                call(path)

        walled.check_outside()

    def test_a_link_of_thousands_of_steps_takes_bounded_time(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("link", "folder/../" * 400 + "link")

        with pytest.raises(PathEscapeError):
            files.read("link")


# Random trees, compared with other resolvers.

NAMES = st.sampled_from("abc")
STEPS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=5)
TAME = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
WILD = (
    STEPS.map("/".join).filter(bool)
    | TAME.map("{root}/".__add__)
    | st.sampled_from(["/", "../outside/secret", "../outside", "../module", "../module/a"])
)
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8)


Tree = list[tuple[str, str | None]]
"""Places with the target of a link, or None for a file."""


def trees(targets: st.SearchStrategy[str]) -> st.SearchStrategy[Tree]:
    return st.lists(st.tuples(PLACES, st.none() | targets), max_size=10)


@contextmanager
def grown(tree: Tree) -> Iterator[Walled]:
    base = Path(tempfile.mkdtemp())
    try:
        walled = Walled(base.resolve())
        for place, target in tree:
            made = walled.root / place
            if Path(os.path.realpath(made.parent)) != made.parent:
                continue
            # Existing files stay.
            with suppress(OSError):
                made.parent.mkdir(parents=True, exist_ok=True)
                if target is not None:
                    made.symlink_to(target.format(root=walled.root))
                elif not os.path.lexists(made):
                    made.write_bytes(place.encode())
        yield walled
    finally:
        shutil.rmtree(base)


def refusal_of(files: ModuleFiles, path: str) -> type[PathEscapeError] | ErrorCode | None:
    try:
        files.read(path)
    except PathEscapeError:
        return PathEscapeError
    except ActionError as refusal:
        return refusal.code
    return None


def check_tame(tree: Tree, paths: list[str]) -> None:
    with grown(tree) as walled, ModuleFiles(walled.root) as files:
        for path in paths:
            if os.path.isfile(walled.root / path):
                assert files.read(path) == Path(os.path.realpath(walled.root / path)).read_bytes()
            else:
                with pytest.raises(ActionError):
                    files.read(path)


def check_wild(tree: Tree, paths: list[str]) -> None:
    with grown(tree) as walled, ModuleFiles(walled.root) as files:
        for path in paths:
            real = Path(os.path.realpath(walled.root / path))
            with suppress(ActionError):
                assert files.read(path) == real.read_bytes() != SECRET
                assert real.is_relative_to(walled.root)
            with suppress(ActionError):
                os.close(files.open_folder(path))
                assert real.is_relative_to(walled.root)
            with suppress(ActionError):
                files.write(path, b"mine")
                assert Path(os.path.realpath(walled.root / path)).read_bytes() == b"mine"
            with suppress(ActionError):
                files.delete(path)
        for entry in files.walk():
            assert entry.link is not None or files.read(entry.path) != SECRET
        walled.check_outside()


def beneath(root: int, path: str) -> int | None:
    """Return the error number of opening a path beneath a folder with the system's own call, or None."""
    how = struct.pack("QQQ", os.O_RDONLY | os.O_CLOEXEC, 0, RESOLVE_BENEATH)
    libc = ctypes.CDLL(None, use_errno=True)
    number = NUMBERS_OF_OPENAT2[platform.machine()]
    opened = libc.syscall(number, root, path.encode(), ctypes.create_string_buffer(how, len(how)), len(how))
    if opened < 0:
        return ctypes.get_errno()
    os.close(opened)
    return None


def has_openat2() -> bool:
    if platform.system() != "Linux" or platform.machine() not in NUMBERS_OF_OPENAT2:
        return False
    root = os.open("/", os.O_RDONLY)
    try:
        return beneath(root, ".") is None
    finally:
        os.close(root)


def check_as_linux_does(tree: Tree, paths: list[str]) -> None:
    with grown(tree) as walled, ModuleFiles(walled.root) as files:
        root = os.open(walled.root, os.O_RDONLY)
        try:
            for path in paths:
                number = beneath(root, path)
                if number is None and (walled.root / path).is_dir():
                    os.close(files.open_folder(path))
                    assert refusal_of(files, path) == ErrorCode.UNPROCESSABLE
                else:
                    assert refusal_of(files, path) == MEANINGS[number]
        finally:
            os.close(root)


@settings(max_examples=50, deadline=None)
@given(trees(TAME), PATHS)
def test_without_links_that_lead_out_all_paths_open(tree: Tree, paths: list[str]) -> None:
    check_tame(tree, paths)


@settings(max_examples=60, deadline=None)
@given(trees(WILD), PATHS)
def test_whatever_is_opened_or_written_is_inside(tree: Tree, paths: list[str]) -> None:
    check_wild(tree, paths)


@pytest.mark.skipif(not has_openat2(), reason="needs openat2(2)")
@settings(deadline=None)
@given(trees(WILD | TAME), PATHS)
def test_linux_says_the_same_of_every_path(tree: Tree, paths: list[str]) -> None:
    check_as_linux_does(tree, paths)


@pytest.mark.soak
@settings(max_examples=5000, deadline=None)
@given(trees(TAME), trees(WILD), trees(WILD | TAME), PATHS)
def test_all_of_this_holds_for_long(tame: Tree, wild: Tree, either: Tree, paths: list[str]) -> None:
    check_tame(tame, paths)
    check_wild(wild, paths)
    if has_openat2():
        check_as_linux_does(either, paths)


# Races.

LONG = [pytest.param(0.4, id="short"), pytest.param(20.0, id="long", marks=pytest.mark.soak)]


def race(seconds: float, swap: Callable[[], None], *work: Callable[[], None]) -> None:
    """Swap, and do each work, repeatedly in separate threads, until each was done without a refusal.

    Raises all errors but `ActionError`.
    """
    begun = monotonic()
    counts = [0] * (len(work) + 1)
    raised: list[BaseException] = []

    def again(place: int, call: Callable[[], None]) -> None:
        try:
            while not raised and monotonic() < begun + (seconds if all(counts) else seconds + 60):
                with suppress(ActionError):
                    call()
                    counts[place] += 1
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=again, args=each) for each in enumerate((swap, *work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    assert all(counts), counts


@pytest.mark.parametrize("seconds", LONG)
def test_a_folder_swapped_for_a_link_is_never_followed_out(seconds: float, files: ModuleFiles, walled: Walled) -> None:
    folder, aside = walled.root / "folder", walled.root / "aside"
    expected = (b"inside", b"written")
    numbers = count()

    def swap() -> None:
        folder.rename(aside)
        for target in (walled.outside, "../outside"):
            # The writer may have created the folder again.
            with suppress(OSError):
                folder.symlink_to(target)
                folder.unlink()
        while aside.exists():
            with suppress(OSError):
                aside.rename(folder)
                return
            made = walled.root / f"made{next(numbers)}"
            with suppress(OSError):
                folder.rename(made)
                shutil.rmtree(made, ignore_errors=True)

    def read() -> None:
        assert files.read("folder/inside.txt") in expected

    def write() -> None:
        files.write("folder/inside.txt", b"written")
        files.write("folder/new/file", b"written")

    def walk() -> None:
        for entry in files.walk():
            assert entry.size in (len(b"inside"), len(b"written")) or entry.link is not None

    def delete() -> None:
        with suppress(ActionError):
            files.delete("folder/secret")

    race(seconds, swap, read, write, walk, delete)

    walled.check_outside()


@pytest.mark.parametrize("seconds", LONG)
def test_a_swapped_file_is_read_as_a_file_or_refused(seconds: float, files: ModuleFiles, walled: Walled) -> None:
    file, made = walled.root / "folder" / "inside.txt", walled.root / "made"

    def swap() -> None:
        made.write_bytes(b"inside")
        made.rename(file)
        made.symlink_to(walled.outside / "secret")
        made.rename(file)
        os.mkfifo(made)
        made.rename(file)

    def read() -> None:
        assert files.read("folder/inside.txt") in (b"inside", b"written")

    def write() -> None:
        files.write("folder/inside.txt", b"written")

    def stat() -> None:
        entry = files.stat("folder/inside.txt")
        assert entry is not None

    race(seconds, swap, read, write, stat)

    walled.check_outside()


@pytest.mark.parametrize("seconds", LONG)
def test_up_from_a_folder_that_is_moved_out_is_not_up_outside(
    seconds: float, files: ModuleFiles, walled: Walled
) -> None:
    files.write("moving/down/file", b"inside")
    walled.link("link", "moving/down/../../inside.txt")
    walled.link("two", "moving/../inside.txt")
    inside, outside = walled.root / "moving", walled.outside / "moving"

    def swap() -> None:
        inside.rename(outside)
        outside.rename(inside)

    def read() -> None:
        assert files.read("link") == b"inside"

    def read_too() -> None:
        assert files.read("two") == b"inside"

    race(seconds, swap, read, read_too)

    walled.check_outside()
