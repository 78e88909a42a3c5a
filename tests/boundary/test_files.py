"""The files of a module: reading, writing, listing, and paths and links that lead out."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from actionengine.boundary.errors import MissingModuleError, PathEscapeError
from actionengine.boundary.files.files import FileEntry, ModuleFiles
from actionengine.errors import ErrorCode
from tests.boundary.modules import code_of
from tests.boundary.traversals import ODD_NAMES, REFUSED
from tests.boundary.walled import Walled


def paths(entries: Iterator[FileEntry]) -> list[str]:
    return [each.path for each in entries]


class TestReadingAndWriting:
    def test_what_is_written_is_read_again(self, files: ModuleFiles) -> None:
        files.write("new/deep/er.bin", b"\0\xff")

        assert files.read("new/deep/er.bin") == b"\0\xff"

    def test_an_empty_file_is_a_file(self, files: ModuleFiles) -> None:
        files.write("empty", b"")

        assert files.read("empty", limit=0) == b""
        assert files.stat("empty") == FileEntry("empty", 0, False, None)

    def test_a_file_is_replaced_and_leaves_nothing_beside_it(self, files: ModuleFiles, walled: Walled) -> None:
        files.write("folder/inside.txt", b"other")

        assert files.read("folder/inside.txt") == b"other"
        assert os.listdir(walled.root / "folder") == ["inside.txt"]

    def test_the_root_may_be_a_link_and_stays_what_it_led_to(self, walled: Walled) -> None:
        link = walled.base / "link"
        link.symlink_to(walled.root)
        with ModuleFiles(link) as opened:
            link.unlink()
            link.symlink_to(walled.outside)

            assert opened.read("inside.txt") == b"inside"

    @pytest.mark.parametrize("root", ["missing", "file", "file/below", "loop", "n\0ul", "x" * 300])
    def test_a_root_that_is_no_folder_is_a_missing_module(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "loop").symlink_to("loop")

        with pytest.raises(MissingModuleError):
            ModuleFiles(f"{tmp_path}/{root}")

    @pytest.mark.parametrize("path", ["missing", "missing/below", "folder/missing"])
    def test_what_is_not_there_is_not_found(self, path: str, files: ModuleFiles) -> None:
        assert code_of(lambda: files.read(path)) == ErrorCode.NOT_FOUND
        assert code_of(lambda: files.delete(path)) == ErrorCode.NOT_FOUND
        assert code_of(lambda: files.open_folder(path)) == ErrorCode.NOT_FOUND
        assert code_of(lambda: list(files.walk(path))) == ErrorCode.NOT_FOUND
        assert files.stat(path) is None

    def test_a_folder_is_no_file_and_a_file_no_folder(self, files: ModuleFiles) -> None:
        calls: list[Callable[[], object]] = [
            lambda: files.read("folder"),
            lambda: files.write("folder", b""),
            lambda: files.delete("folder"),
            lambda: files.stat("folder"),
            lambda: files.read("inside.txt/below"),
            lambda: files.write("inside.txt/below", b""),
            lambda: files.open_folder("inside.txt"),
            lambda: list(files.walk("inside.txt")),
        ]

        assert [code_of(each) for each in calls] == [ErrorCode.UNPROCESSABLE] * len(calls)
        assert files.stat("inside.txt/below") is None
        assert files.read("inside.txt") == b"inside"

    def test_no_more_is_read_than_the_limit(self, files: ModuleFiles) -> None:
        assert files.read("inside.txt", limit=6) == b"inside"
        assert code_of(lambda: files.read("inside.txt", limit=5)) == ErrorCode.UNPROCESSABLE

    def test_a_file_larger_than_memory_is_not_read(self, files: ModuleFiles, walled: Walled) -> None:
        with open(walled.root / "sparse", "wb") as sparse:
            sparse.truncate(1 << 40)

        assert code_of(lambda: files.read("sparse")) == ErrorCode.UNPROCESSABLE

    def test_a_growing_file_is_not_read_beyond_the_limit(
        self, files: ModuleFiles, walled: Walled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = os.read

        def grown(file: int, size: int) -> bytes:
            with open(walled.root / "inside.txt", "ab") as growing:
                growing.write(b"more")
            return read(file, min(size, 4))

        monkeypatch.setattr(os, "read", grown)

        assert code_of(lambda: files.read("inside.txt", limit=100)) == ErrorCode.UNPROCESSABLE

    def test_what_is_deleted_is_gone(self, files: ModuleFiles, walled: Walled) -> None:
        files.delete("folder/inside.txt")

        assert files.stat("folder/inside.txt") is None
        assert (walled.root / "folder").is_dir()

    def test_a_command_can_be_run_in_a_folder(self, files: ModuleFiles) -> None:
        folder = files.open_folder("folder")
        try:
            assert os.listdir(folder) == ["inside.txt"]
            assert not os.get_inheritable(folder)
        finally:
            os.close(folder)


class TestModes:
    def test_a_new_file_has_the_mode_that_the_umask_leaves(self, files: ModuleFiles, walled: Walled) -> None:
        before = os.umask(0o027)
        try:
            files.write("plain", b"")
            files.write("program", b"", executable=True)
        finally:
            os.umask(before)

        assert stat.S_IMODE((walled.root / "plain").stat().st_mode) == 0o640
        assert stat.S_IMODE((walled.root / "program").stat().st_mode) == 0o750

    @pytest.mark.parametrize(
        ("before", "executable", "after"),
        [
            (0o640, None, 0o640),
            (0o755, None, 0o755),
            (0o777, None, 0o777),
            (0o400, None, 0o400),
            (0o4755, None, 0o755),
            (0o640, True, 0o750),
            (0o600, True, 0o700),
            (0o755, False, 0o644),
            (0o600, False, 0o600),
        ],
    )
    def test_a_file_that_was_there_keeps_its_mode(
        self, before: int, executable: bool | None, after: int, files: ModuleFiles, walled: Walled
    ) -> None:
        file = walled.root / "inside.txt"
        file.chmod(before)

        files.write("inside.txt", b"other", executable=executable)

        assert stat.S_IMODE(file.stat().st_mode) == after
        entry = files.stat("inside.txt")
        assert entry is not None
        assert entry.executable == bool(after & 0o100)


class TestWalking:
    def test_files_and_links_come_depth_first_by_name(self, files: ModuleFiles, walled: Walled) -> None:
        for path in ("b/z", "b/a/x", "b.txt", "a", ".git/config", ".hidden/x"):
            made = walled.root / path
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(b"")
        walled.link("b/link", "a")
        walled.link("out", "/etc")
        os.mkfifo(walled.root / "fifo")

        found = {each.path: each.link for each in files.walk()}

        assert list(found) == [
            ".git/config",
            ".hidden/x",
            "a",
            "b/a/x",
            "b/link",
            "b/z",
            "b.txt",
            "folder/inside.txt",
            "inside.txt",
            "out",
        ]
        assert {path: link for path, link in found.items() if link} == {"b/link": "a", "out": "/etc"}

    def test_a_folder_is_walked_under_the_name_that_it_was_given(self, files: ModuleFiles, walled: Walled) -> None:
        walled.link("way", "folder")

        assert paths(files.walk("folder")) == ["folder/inside.txt"]
        assert paths(files.walk("way")) == ["way/inside.txt"]
        assert paths(files.walk(".")) == paths(files.walk())

    @pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
    def test_names_that_no_request_can_give_come_too(self, files: ModuleFiles, walled: Walled) -> None:
        for name in (b"\xff", b"line\nbreak", b"back\\slash"):
            Path(os.fsdecode(os.path.join(os.fsencode(walled.root), b"folder", name))).write_bytes(b"")

        assert paths(files.walk("folder")) == [
            "folder/back\\slash",
            "folder/inside.txt",
            "folder/line\nbreak",
            "folder/\udcff",
        ]

    def test_a_tree_deeper_than_a_path_may_be_is_said_to_be(self, files: ModuleFiles, walled: Walled) -> None:
        folder = os.open(walled.root, os.O_RDONLY)
        for _ in range(600):
            os.mkdir("d", dir_fd=folder)
            below = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)

        assert code_of(lambda: list(files.walk())) == ErrorCode.UNPROCESSABLE
        # pytest cannot remove a tree of this depth.
        subprocess.run(["rm", "-rf", str(walled.root / "d")], check=True)

    def test_what_vanishes_meanwhile_is_left_out(self, files: ModuleFiles, walled: Walled) -> None:
        for name in "abc":
            files.write(f"{name}/x", b"")
        walk = files.walk()
        first = next(walk)

        subprocess.run(["rm", "-r", str(walled.root / "b"), str(walled.root / "c")], check=True)
        (walled.root / "c").symlink_to(walled.outside)

        assert [first.path, *paths(walk)] == ["a/x", "folder/inside.txt", "inside.txt"]


class TestTraversals:
    def test_a_refused_path_reaches_nothing(self, files: ModuleFiles, walled: Walled) -> None:
        def walk(text: str) -> object:
            return list(files.walk(text))

        for text in REFUSED:
            calls: list[Callable[[str], object]]
            calls = [files.read, lambda text: files.write(text, b"mine"), files.delete, files.stat]
            if text not in ("", "."):
                calls += [files.open_folder, walk]
            for call in calls:
                with pytest.raises(PathEscapeError):
                    call(text)

        walled.check_outside()
        assert paths(files.walk()) == ["folder/inside.txt", "inside.txt"]

    def test_an_odd_name_is_one_inside(self, files: ModuleFiles, walled: Walled) -> None:
        for text in ODD_NAMES:
            files.write(text, b"mine")

            assert files.read(text) == b"mine"
            assert text in paths(files.walk())
            assert Path(os.path.realpath(walled.root / text)).is_relative_to(walled.root)
            files.delete(text)
            # A later name may equal that of a folder.
            rmtree(walled.root / text.split("/")[0], ignore_errors=True)
        walled.check_outside()

    @pytest.mark.parametrize("path", [".git", ".git/config", ".GIT/hooks/pre-commit", "a/.git/config", "way/x", "to"])
    def test_what_git_runs_is_read_but_not_changed(self, path: str, files: ModuleFiles, walled: Walled) -> None:
        for folder in (".git/hooks", ".GIT/hooks", "a/.git"):
            (walled.root / folder).mkdir(parents=True, exist_ok=True)
        (walled.root / ".git" / "config").write_bytes(b"theirs")
        walled.link("way", ".git/hooks")
        walled.link("to", ".git/config")

        with pytest.raises(PathEscapeError):
            files.write(path, b"mine")
        if path != "to":
            with pytest.raises(PathEscapeError):
                files.delete(path)

        assert files.read("to") == b"theirs"


class TestWhatIsNoFile:
    @pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
    def test_it_is_neither_read_nor_waited_for(
        self, kind: str, files: ModuleFiles, walled: Walled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(walled.root)
        if kind == "fifo":
            os.mkfifo("special")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind("special")
        else:
            try:
                os.mknod("special", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            except PermissionError:
                pytest.skip("only a privileged user makes devices")

        assert code_of(lambda: files.read("special")) == ErrorCode.UNPROCESSABLE
        assert code_of(lambda: files.write("special", b"")) == ErrorCode.UNPROCESSABLE
        assert code_of(lambda: files.stat("special")) == ErrorCode.UNPROCESSABLE
        assert code_of(lambda: list(files.walk("special"))) == ErrorCode.UNPROCESSABLE
        files.delete("special")
        assert not os.path.lexists("special")

    def test_a_fifo_that_replaces_a_file_is_not_waited_for(
        self, files: ModuleFiles, walled: Walled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked = os.stat

        def and_swapped(*given: object, **named: object) -> os.stat_result:
            found = looked(*given, **named)  # type: ignore[arg-type]
            (walled.root / "inside.txt").unlink()
            os.mkfifo(walled.root / "inside.txt")
            return found

        monkeypatch.setattr(os, "stat", and_swapped)

        assert code_of(lambda: files.read("inside.txt")) == ErrorCode.UNPROCESSABLE

    def test_writing_leaves_what_a_hard_link_has_outside(self, files: ModuleFiles, walled: Walled) -> None:
        os.link(walled.outside / "secret", walled.root / "hard")

        files.write("hard", b"mine")

        assert files.read("hard") == b"mine"
        walled.check_outside()
