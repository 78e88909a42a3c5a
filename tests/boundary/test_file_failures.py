"""The files of a module after failures: of the system, of killed writers, and with two writers at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from actionengine.boundary.files.files import FileEntry, ModuleFiles
from actionengine.boundary.files.paths import TEMPORARY_PREFIX
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.walled import Walled

LIMITED = Path(__file__).with_name("limited_files.py")
KILLED = Path(__file__).with_name("killed_writers.py")


def paths(entries: Iterator[FileEntry]) -> list[str]:
    return [each.path for each in entries]


class TestSystemErrors:
    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (errno.ENOSPC, ErrorCode.UNAVAILABLE),
            (errno.EDQUOT, ErrorCode.UNAVAILABLE),
            (errno.EIO, ErrorCode.UNAVAILABLE),
            (errno.EROFS, ErrorCode.FORBIDDEN),
            (errno.EACCES, ErrorCode.FORBIDDEN),
            (errno.EPERM, ErrorCode.FORBIDDEN),
            (errno.EFBIG, ErrorCode.UNPROCESSABLE),
        ],
        ids=lambda each: errno.errorcode[each] if type(each) is int else "",
    )
    @pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
    def test_a_failed_write_is_reported_and_leaves_the_file(
        self,
        call: str,
        number: int,
        code: ErrorCode,
        files: ModuleFiles,
        walled: Walled,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = getattr(os, call)

        def failing(*given: object, **named: object) -> object:
            if call == "open" and TEMPORARY_PREFIX not in str(given[0]):
                return real(*given, **named)
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            with pytest.raises(ActionError) as raised:
                files.write("inside.txt", b"other")

        error = raised.value
        assert error.code == code
        assert error.details["path"] == "inside.txt"
        assert error.details["reason"] == errno.errorcode[number]
        assert files.read("inside.txt") == b"inside"
        assert sorted(os.listdir(walled.root)) == ["folder", "inside.txt"]

    def test_a_write_that_is_interrupted_leaves_nothing(
        self, files: ModuleFiles, walled: Walled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                files.write("inside.txt", b"other")

        assert sorted(os.listdir(walled.root)) == ["folder", "inside.txt"]

    def test_what_the_system_permits_or_lacks_is_told(self, tmp_path: Path) -> None:
        """This runs in a process with few descriptors, small files and no privileges."""
        done = subprocess.run(
            [sys.executable, str(LIMITED), str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )

        assert done.stdout.split() == [
            "deep:ok",
            "read:forbidden",
            "write:forbidden",
            "walk:forbidden",
            "large:unprocessable",
            "descriptors:unavailable",
        ], done.stderr


class TestClosing:
    def test_closing_twice_is_closing_once(self, walled: Walled) -> None:
        opened = ModuleFiles(walled.root)

        opened.close()
        opened.close()

        for call in (opened.read, opened.stat, opened.delete, opened.open_folder):
            with pytest.raises(ValueError, match="closed"):
                call("inside.txt")

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
    def test_no_descriptor_is_left_whatever_happens(self, walled: Walled) -> None:
        os.mkfifo(walled.root / "fifo")
        walled.link("loop", "loop")
        walled.link("out", "../outside")
        walled.link("back", "folder/../inside.txt")
        before = len(os.listdir("/proc/self/fd"))

        with ModuleFiles(walled.root) as opened:
            for path in (
                "inside.txt",
                "missing",
                "folder",
                "fifo",
                "loop",
                "loop/x",
                "out",
                "out/secret",
                "back",
                "../x",
            ):
                for call in (opened.read, opened.stat, lambda path: os.close(opened.open_folder(path)), opened.delete):
                    with suppress(ActionError):
                        call(path)
                with suppress(ActionError):
                    opened.write(path, b"")
                with suppress(ActionError):
                    next(opened.walk(path), None)
                next(opened.walk())

        assert len(os.listdir("/proc/self/fd")) == before


class TestWholeOrNotAtAll:
    def test_a_reader_sees_what_was_there_or_what_is_written(self, files: ModuleFiles) -> None:
        contents = [bytes([letter]) * 300_000 for letter in b"abc"]
        files.write("shared", contents[0])

        def write(content: bytes) -> None:
            for _ in range(60):
                files.write("shared", content)

        writers = [threading.Thread(target=write, args=(each,)) for each in contents]
        for each in writers:
            each.start()

        torn = 0
        while any(each.is_alive() for each in writers):
            torn += files.read("shared") not in contents
        for each in writers:
            each.join()

        assert torn == 0
        assert paths(files.walk()) == ["folder/inside.txt", "inside.txt", "shared"]

    def test_many_writers_may_make_the_same_folders(self, files: ModuleFiles) -> None:
        start = threading.Barrier(8)

        def write(number: int) -> None:
            start.wait()
            for each in range(5):
                files.write(f"new/{each}/of/many/{number}", b"")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(paths(files.walk("new"))) == 40

    @pytest.mark.parametrize("rounds", [pytest.param(25, id="short"), pytest.param(1500, marks=pytest.mark.soak)])
    def test_a_writer_that_is_killed_leaves_whole_files(self, rounds: int, tmp_path: Path) -> None:
        """It is killed at each of its steps, and at random moments: see the script."""
        done = subprocess.run(
            [sys.executable, str(KILLED), str(tmp_path), str(rounds)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "whole"
