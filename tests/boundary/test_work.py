"""The handle gives a handler only the capabilities of its request, and nothing after the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary.errors import CapabilityNotGrantedError, MissingModuleError, PathEscapeError
from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.modules import EVERYTHING, code_of, work_in

CALLS: dict[str, tuple[frozenset[str], Callable[[ModuleHandle], Any]]] = {
    "read": (frozenset({"fs:read"}), lambda work: work.read("a.txt")),
    "read_text": (frozenset({"fs:read"}), lambda work: work.read_text("a.txt")),
    "stat": (frozenset({"fs:read"}), lambda work: work.stat("a.txt")),
    "list": (frozenset({"fs:read"}), lambda work: work.list()),
    "write": (frozenset({"fs:write"}), lambda work: work.write("b.txt", "b")),
    "delete": (frozenset({"fs:write"}), lambda work: work.delete("a.txt")),
    "edit_file": (
        frozenset({"fs:read", "fs:write"}),
        lambda work: work.edit_file("a.txt", unified_diff("a\n", "b\n", "a.txt")),
    ),
    "run": (frozenset({"cmd:run"}), lambda work: work.run(["true"])),
    "diff": (frozenset({"git:diff"}), lambda work: work.diff()),
}
calls = pytest.mark.parametrize("call", CALLS)


@pytest.fixture
def root(root: Path) -> Path:
    (root / "a.txt").write_text("a\n")
    return root


@calls
def test_a_call_takes_each_capability_that_it_needs(root: Path, call: str) -> None:
    needed, made = CALLS[call]
    for lacking in needed:
        with (
            work_in(root, *(set(EVERYTHING) - {lacking})) as work,
            pytest.raises(CapabilityNotGrantedError) as caught,
        ):
            made(work)
        assert caught.value.details["capabilities"] == [lacking]
    assert [path.name for path in root.iterdir()] == ["a.txt"]

    with work_in(root, *needed) as work:
        if call == "diff":
            with pytest.raises(ActionError, match="not a complete git work tree"):
                made(work)
        else:
            made(work)


@calls
def test_nothing_is_done_after_the_deadline(root: Path, call: str) -> None:
    with work_in(root, seconds=-1.0) as work:
        assert code_of(lambda: CALLS[call][1](work)) is ErrorCode.TIMEOUT
    assert [path.name for path in root.iterdir()] == ["a.txt"]


@calls
def test_nothing_is_done_once_it_is_cancelled(root: Path, call: str) -> None:
    cancelled = threading.Event()
    with work_in(root, cancelled=cancelled) as work:
        cancelled.set()
        with pytest.raises(ActionError) as caught:
            CALLS[call][1](work)

    assert caught.value.code is ErrorCode.CONFLICT
    assert caught.value.details["cancelled"] is True
    assert [path.name for path in root.iterdir()] == ["a.txt"]


def test_a_command_ends_with_the_work(root: Path) -> None:
    with work_in(root, seconds=0.5) as work, pytest.raises(ActionError) as caught:
        work.run(["sleep", "60"])

    assert caught.value.code is ErrorCode.TIMEOUT
    assert "request_id" in caught.value.details


def test_a_command_ends_at_its_own_timeout_and_the_work_goes_on(root: Path) -> None:
    with work_in(root) as work:
        with pytest.raises(ActionError) as caught:
            work.run(["sleep", "60"], timeout=0.3)
        assert work.read("a.txt") == b"a\n"

    assert caught.value.code is ErrorCode.TIMEOUT
    assert "request_id" not in caught.value.details


def test_a_command_ends_when_the_work_is_cancelled(root: Path) -> None:
    cancelled = threading.Event()
    timer = threading.Timer(0.3, cancelled.set)
    timer.start()
    with work_in(root, cancelled=cancelled) as work, pytest.raises(ActionError) as caught:
        work.run(["sleep", "60"])
    timer.join()

    assert caught.value.details["cancelled"] is True


def test_a_command_runs_in_a_folder_of_the_module(root: Path) -> None:
    with work_in(root) as work:
        work.write("sub/here.txt", "x", executable=True)
        assert work.network == "not_needed"
        finished = work.run(["sh", "-c", "ls; cat; echo $COLOUR"], "sub", {"COLOUR": "red"}, b"given\n")
        with pytest.raises(PathEscapeError):
            work.run(["ls"], "..")

    assert finished.stdout == b"here.txt\ngiven\nred\n"
    assert work.network == finished.network != "not_needed"


def test_the_worst_that_commands_could_reach_is_told(root: Path) -> None:
    with work_in(root, *EVERYTHING, "net:http") as work:
        work.run(["true"])
    assert work.network == "granted"


def test_a_path_that_leads_out_is_refused_everywhere(root: Path) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "out").symlink_to("../secret")
    diff = unified_diff("secret", "changed", "out")
    with work_in(root) as work:
        for made in (
            lambda: work.read("out"),
            lambda: work.write("out", b""),
            lambda: work.edit_file("out", diff),
            lambda: work.read("../secret"),
            lambda: work.delete("../secret"),
            lambda: work.diff("../secret"),
        ):
            with pytest.raises(PathEscapeError):
                made()

    assert (root.parent / "secret").read_text() == "secret"


def test_a_module_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingModuleError):
        work_in(tmp_path / "none")


def test_a_file_that_is_no_text_is_not_edited(root: Path) -> None:
    (root / "b").write_bytes(b"\xff\n")

    with work_in(root) as work:
        assert code_of(lambda: work.edit_file("b", unified_diff("a\n", "b\n", "b"))) is ErrorCode.UNPROCESSABLE
