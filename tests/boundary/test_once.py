"""Work under an idempotency key takes effect once in its module, even if processes are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import sleep, time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.idempotency.journal import Journal
from actionengine.boundary.idempotency.run_once import OnceLimits, recover, run_once
from actionengine.boundary.idempotency.working_copy import CopyLimits
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.request import ExecutionResult
from actionengine.errors import ActionError, ErrorCode
from tests.boundary.modules import EVERYTHING, admit, code_of, do, perform, tree

PROJECT = Path(__file__).parents[2]
KILLS = 6
CAMPAIGN = 900


class Nothing(BaseModel):
    """No input."""


def doing(root: Path, handler: Callable[[Path], Any], key: str | None = "one", **of_request: Any) -> AdmittedRequest:
    """Return a request whose handler calls this with its folder."""

    def called(data: Nothing, work: ModuleHandle) -> Any:
        return handler(work.module.root)

    action = create_module_action(
        name="act", description="Acts.", validation=Nothing, handler=called, capabilities=EVERYTHING
    )
    return admit(root, "act", actions=[action], idempotency_key=key, **of_request)


def append(root: Path, key: str | None = "one", line: str = "line", **of_request: Any) -> AdmittedRequest:
    """Return a request that appends a line."""
    return admit(root, "run", {"argv": ["sh", "-c", f"echo {line} >> log.txt"]}, idempotency_key=key, **of_request)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "module"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a\n")
    (root / "sub/b.txt").write_text("b\n")
    return root


def lines(root: Path) -> list[str]:
    return (root / "log.txt").read_text().splitlines()


def beside(root: Path) -> list[str]:
    """Return the states of a journal's entries, and the names of unexpected files."""
    folder = Journal(root).folder
    names = [*os.listdir(folder), *os.listdir(folder / "done")]
    return sorted(name.rpartition(".")[2] for name in names if name not in ("lock", "done", "purge"))


def test_a_key_has_its_effect_once_and_its_result_again(root: Path) -> None:
    first = run_once(append(root), perform)
    again = run_once(append(root), perform)

    assert lines(root) == ["line"]
    assert (first.replayed, again.replayed) == (False, True)
    assert again == first.model_copy(update={"replayed": True})
    assert beside(root) == ["done"]
    assert sorted(os.listdir(root.parent)) == [".module.actionengine", "module"]


def test_a_module_is_the_same_by_whatever_name(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    run_once(append(root), perform)

    assert run_once(append(root.parent / "alias"), perform).replayed


def test_another_key_and_no_key_have_theirs(root: Path) -> None:
    for key in ("one", "two", None, None):
        run_once(append(root, key), perform)

    assert lines(root) == ["line"] * 4
    assert beside(root) == ["done", "done"]


def test_a_key_belongs_to_one_piece_of_work(root: Path) -> None:
    run_once(append(root), perform)

    others = (
        append(root, line="other"),
        admit(root, "read", {"path": "a.txt"}, idempotency_key="one"),
    )
    for other in others:
        assert code_of(lambda other=other: run_once(other, perform)) is ErrorCode.IDEMPOTENCY_MISMATCH  # type: ignore[misc]
    assert lines(root) == ["line"]


def test_what_performs_gets_the_copy_and_no_key(root: Path) -> None:
    seen: list[AdmittedRequest] = []

    def watching(admitted: AdmittedRequest) -> ExecutionResult:
        seen.append(admitted)
        return perform(admitted)

    admitted = append(root)
    result = run_once(admitted, watching)

    assert seen[0].module == seen[0].request.module
    assert seen[0].module.root != root
    assert not seen[0].module.root.exists()
    assert seen[0].request.idempotency_key is None
    assert (seen[0].request.id, seen[0].data) == (admitted.request.id, admitted.data)
    assert result.request_id == admitted.request.id


def test_work_that_fails_has_no_effect_and_may_be_tried_again(root: Path) -> None:
    before = tree(root)
    attempts = []

    def act(folder: Path) -> str:
        attempts.append(folder)
        (folder / "half").write_text("half")
        if len(attempts) < 3:
            raise ActionError(ErrorCode.UNPROCESSABLE, "not yet") if len(attempts) == 1 else RuntimeError("not yet")
        return "done"

    assert code_of(lambda: run_once(doing(root, act), perform)) is ErrorCode.UNPROCESSABLE
    with pytest.raises(RuntimeError):
        run_once(doing(root, act), perform)
    assert tree(root) == before
    assert beside(root) == []

    assert run_once(doing(root, act), perform).output == "done"
    assert (root / "half").exists()


def test_a_command_that_fails_is_a_result_and_is_kept(root: Path) -> None:
    work = admit(root, "run", {"argv": ["sh", "-c", "echo x >> log.txt; exit 3"]}, idempotency_key="one")

    assert [run_once(work, perform).output["exit_code"] for _ in range(2)] == [3, 3]
    assert lines(root) == ["x"]


def test_what_only_reads_gives_the_same_again(root: Path) -> None:
    work = admit(root, "read", {"path": "a.txt"}, idempotency_key="one")
    roots = []

    def watching(admitted: AdmittedRequest) -> ExecutionResult:
        roots.append(admitted.module.root)
        return perform(admitted)

    first = run_once(work, watching)
    (root / "a.txt").write_text("changed")
    again = run_once(work, watching)

    assert first.output == again.output
    assert (again.replayed, roots) == (True, [root])


def test_a_result_that_is_no_json_is_told_and_has_no_effect(root: Path) -> None:
    def act(folder: Path) -> object:
        (folder / "half").write_text("half")
        return object()

    assert code_of(lambda: run_once(doing(root, act), perform)) is ErrorCode.INTERNAL
    assert not (root / "half").exists()


def test_the_first_result_is_what_a_replay_gives(root: Path) -> None:
    first, again = (run_once(doing(root, lambda _: {"pair": (1, 2)}), perform) for _ in range(2))

    assert first.output == again.output == {"pair": [1, 2]}


@pytest.mark.parametrize("path", ["a.txt", "sub/b.txt", "unrelated"])
def test_a_module_that_was_changed_meanwhile_is_a_conflict(root: Path, path: str) -> None:
    def act(folder: Path) -> None:
        (folder / "a.txt").write_text("mine")
        (root / path).write_text("theirs")

    assert code_of(lambda: run_once(doing(root, act), perform)) is ErrorCode.CONFLICT
    assert (root / path).read_text() == "theirs"
    assert beside(root) == []

    run_once(doing(root, lambda folder: (folder / "a.txt").write_text("mine")), perform)
    assert (root / "a.txt").read_text() == "mine"


def test_a_link_into_the_copy_is_refused(root: Path) -> None:
    before = tree(root)

    refused = code_of(lambda: run_once(doing(root, lambda at: (at / "link").symlink_to(at / "a.txt")), perform))

    assert refused is ErrorCode.UNPROCESSABLE
    assert tree(root) == before


@pytest.mark.parametrize("put", ["ln -s {elsewhere}", "touch", "mkfifo", ": "], ids=["link", "file", "fifo", "nothing"])
def test_work_that_does_away_with_its_folder_has_no_effect(root: Path, tmp_path: Path, put: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    before = tree(root)
    command = f'place="$PWD"; cd ..; rm -r "$place"; {put.format(elsewhere=elsewhere)} "$place"'

    with pytest.raises(ActionError) as caught:
        run_once(admit(root, "run", {"argv": ["sh", "-c", command]}, idempotency_key="one"), perform)

    assert caught.value.code is ErrorCode.CONFLICT
    assert tree(root) == before
    assert elsewhere.stat().st_mode & 0o777 == 0o755


def test_of_many_at_once_with_one_key_one_performs(root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run_once(append(root), perform), range(16)))

    assert lines(root) == ["line"]
    assert sorted(result.replayed for result in results) == [False] + [True] * 15
    assert len({result.started_at for result in results}) == 1


def test_keys_of_one_module_take_turns(root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: run_once(append(root, f"key-{number}"), perform), range(10)))

    assert lines(root) == ["line"] * 10


def test_the_wait_for_other_work_is_bounded_and_cancellable(root: Path) -> None:
    begun, go_on, cancelled = threading.Event(), threading.Event(), threading.Event()

    def act(folder: Path) -> None:
        begun.set()
        go_on.wait(90)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(run_once, doing(root, act), perform)
        begun.wait(90)
        late = code_of(lambda: run_once(doing(root, act, timeout=0.1), perform))
        waiting = pool.submit(run_once, append(root, "two"), perform, cancelled=cancelled)
        cancelled.set()
        ended = waiting.exception(90)
        go_on.set()
        slow.result(90)

    assert late is ErrorCode.IDEMPOTENCY_IN_PROGRESS
    assert isinstance(ended, ActionError)
    assert ended.details["cancelled"] is True
    assert not (root / "log.txt").exists()


def test_work_is_forgotten_after_its_time_and_beyond_a_number(root: Path) -> None:
    for key in ("one", "two", "three"):
        run_once(append(root, key), perform)
        sleep(0.01)

    run_once(append(root, "four"), perform, limits=OnceLimits(entries=1))
    assert len(beside(root)) == 2
    assert run_once(append(root, "three"), perform).replayed
    assert not run_once(append(root, "one"), perform).replayed

    for entry in Journal(root).folder.glob("done/*"):
        os.utime(entry, (time() - 100,) * 2)
    run_once(append(root, "five"), perform, limits=OnceLimits(age=99))
    assert len(beside(root)) == 1


def looked_at(work: Callable[[], object]) -> int:
    """Count the entries of folders that are read or listed."""
    number = 0
    usual, listed = Path.lstat, os.listdir

    def lstat(self: Path) -> os.stat_result:
        nonlocal number
        number += 1
        return usual(self)

    def listdir(*arguments: Any) -> list[str]:
        nonlocal number
        found = listed(*arguments)
        number += len(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        patch.setattr("actionengine.boundary.idempotency.journal.os.listdir", listdir)
        work()
    return number


@pytest.mark.parametrize("key", ["new", "old", None])
def test_what_was_done_before_costs_no_later_work_anything(root: Path, key: str | None) -> None:
    costs = []
    for number in (1, 400):
        run_once(append(root, "old"), perform)
        for each in range(number):
            (Journal(root).folder / "done" / f"{each:064}.done").mkdir(exist_ok=True)
        run_once(append(root, f"after {number}"), perform)
        work = append(root, f"new {number}" if key == "new" else key)
        costs.append(looked_at(partial(run_once, work, perform)))
    assert costs[1] <= costs[0] + 2, costs


def test_work_is_forgotten_a_hundredth_at_a_time(root: Path) -> None:
    limits = OnceLimits(entries=200)
    run_once(append(root, "first"), perform, limits=limits)
    (entry,) = Journal(root).folder.glob("done/*")
    os.utime(entry, (time() - 10,) * 2)
    for each in range(200):
        (entry.parent / f"{each:064}.done").mkdir()
    (Journal(root).folder / "purge").write_text("no JSON")

    numbers = []
    for each in range(5):
        run_once(append(root, f"key {each}"), perform, limits=limits)
        numbers.append(len(beside(root)))

    assert numbers == [199, 200, 201, 199, 200]
    assert not run_once(append(root, "first"), perform).replayed


def test_a_folder_of_done_work_that_is_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Journal(root).folder.mkdir()
    (Journal(root).folder / "done").symlink_to(elsewhere)

    assert code_of(lambda: run_once(append(root), perform)) is ErrorCode.UNAVAILABLE
    assert list(elsewhere.iterdir()) == []


def test_what_a_killed_purge_left_of_an_entry_is_none(root: Path) -> None:
    run_once(append(root), perform)
    (entry,) = Journal(root).folder.glob("done/*.done")
    (entry / "entry.json").unlink()
    (entry / "other").write_text("")

    assert not run_once(append(root), perform).replayed
    assert lines(root) == ["line"] * 2


def test_a_module_that_is_too_large_is_refused(root: Path) -> None:
    limits = OnceLimits(copy=CopyLimits(files=2))

    assert code_of(lambda: run_once(append(root), perform, limits=limits)) is ErrorCode.UNPROCESSABLE
    assert beside(root) == []


def test_where_nothing_can_be_beside_a_module_it_is_told(root: Path) -> None:
    Journal(root).folder.write_text("in the way")

    assert code_of(lambda: run_once(append(root), perform)) is ErrorCode.UNAVAILABLE
    run_once(append(root, None), perform)
    assert lines(root) == ["line"]


def test_a_link_in_the_journals_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "file").write_text("mine")
    Journal(root).folder.symlink_to(elsewhere)

    assert code_of(lambda: run_once(append(root), perform)) is ErrorCode.UNAVAILABLE
    assert sorted(os.listdir(elsewhere)) == ["file", "folder"]


class Waits(threading.Event):
    """An event that is never set. A waiting caller checks it before each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def is_set(self) -> bool:
        self.asked.set()
        return False


def test_a_journal_swapped_for_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    journal = Journal(root)

    waits = Waits()
    with ThreadPoolExecutor(1) as pool:
        with journal.lock(append(root).request):
            waiting = pool.submit(run_once, append(root), perform, cancelled=waits)
            assert waits.asked.wait(60)
            journal.folder.rename(tmp_path / "away")
            journal.folder.symlink_to(elsewhere)
        with pytest.raises(ActionError) as caught:
            waiting.result()

    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert os.listdir(elsewhere) == ["folder"]


def test_only_what_attempts_have_left_is_cleaned_away(root: Path) -> None:
    folder = Journal(root).folder
    left = ["copy-0123456789abcdef", "staged-0123456789abcdef", ".copy-0123456789abcdef.0123456789abcdef.making"]
    for name in [*left, "notes", "copy-of-mine"]:
        (folder / name).mkdir(parents=True)

    run_once(append(root), perform)

    assert {"notes", "copy-of-mine"} <= set(os.listdir(folder))
    assert set(left).isdisjoint(os.listdir(folder))


def test_a_replaced_lock_is_waited_for_anew(root: Path) -> None:
    journal = Journal(root)

    waits = Waits()
    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        held.enter_context(journal.lock(append(root).request))
        waiting = pool.submit(run_once, append(root, timeout=1.0), perform, cancelled=waits)
        assert waits.asked.wait(60)
        (journal.folder / "lock").unlink()
        with journal.lock(append(root).request):
            held.close()
            assert code_of(waiting.result) is ErrorCode.IDEMPOTENCY_IN_PROGRESS


def test_a_module_removed_during_the_wait_is_reported(root: Path) -> None:
    journal = Journal(root)

    class Removes(threading.Event):
        """Removes the module when a caller waits for it."""

        def is_set(self) -> bool:
            shutil.rmtree(root, ignore_errors=True)
            held.close()
            return False

    with ExitStack() as held:
        held.enter_context(journal.lock(append(root).request))
        work = append(root)
        assert code_of(lambda: run_once(work, perform, cancelled=Removes())) is ErrorCode.UNAVAILABLE


def test_what_else_lies_in_a_journal_is_no_obstacle(root: Path) -> None:
    folder = Journal(root).folder
    run_once(append(root), perform)
    for number, name in enumerate(("notes.ready", f"{'0' * 64}.done", "notes.done")):
        for place in (folder, folder / "done"):
            (place / name).symlink_to("nowhere") if number else (place / name).touch()

    run_once(append(root, "two"), perform)
    run_once(append(root, None), perform)

    assert lines(root) == ["line"] * 3


def test_a_lock_that_is_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    Journal(root).folder.mkdir()
    (Journal(root).folder / "lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ActionError):
        run_once(append(root), perform)

    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("put", ["fifo", "text"])
def test_an_entry_that_is_none_is_told_and_not_waited_for(root: Path, put: str) -> None:
    run_once(append(root), perform)
    (entry,) = Journal(root).folder.glob("done/*.done/entry.json")
    entry.unlink()
    os.mkfifo(entry) if put == "fifo" else entry.write_text("{")

    assert code_of(lambda: run_once(append(root), perform)) is ErrorCode.UNAVAILABLE
    run_once(append(root, "two"), perform)


DIG = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')"


def test_work_that_makes_too_deep_a_folder_has_no_effect(root: Path) -> None:
    dig = {"argv": [sys.executable, "-I", "-S", "-c", DIG]}

    assert code_of(lambda: run_once(admit(root, "run", dig, idempotency_key="one"), perform)) is ErrorCode.UNPROCESSABLE

    assert beside(root) == []
    run_once(append(root, "two"), perform)
    assert sorted(os.listdir(root)) == ["a.txt", "log.txt", "sub"]


def test_work_that_writes_too_much_to_read_has_no_effect(root: Path) -> None:
    def fill(folder: Path) -> None:
        with open(folder / "sparse", "wb") as file:
            file.truncate(256 * 1024**3)

    assert code_of(lambda: run_once(doing(root, fill, timeout=0.3), perform)) is ErrorCode.TIMEOUT

    assert beside(root) == []
    assert not (root / "sparse").exists()


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "\ud800"], ids=["nul", "long", "half"])
@pytest.mark.parametrize("key", [None, "one"], ids=["no_key", "key"])
def test_a_root_that_no_folder_can_have_is_missing(tmp_path: Path, name: str, key: str | None) -> None:
    with pytest.raises(MissingModuleError) as caught:
        run_once(append(tmp_path / name, key), perform)

    assert str(tmp_path) not in caught.value.message


def test_a_module_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingModuleError):
        run_once(append(tmp_path / "none"), perform)
    with pytest.raises(MissingModuleError):
        run_once(append(Path("/")), perform)
    assert os.listdir(tmp_path) == []


def interrupted(root: Path) -> None:
    """Stop keyed work after its commit, before any change is applied."""
    journal = Journal(root)
    run_once(append(root), perform)
    (done,) = journal.folder.glob("done/*.done")
    (root / "log.txt").rename(done / "0")
    done.rename(Journal(root).folder / f"{done.stem}.ready")


@pytest.mark.parametrize("key", ["one", "two", None])
def test_whoever_comes_next_carries_out_what_was_interrupted(root: Path, key: str | None) -> None:
    interrupted(root)

    run_once(append(root, key), perform)

    assert lines(root) == ["line"] * (1 if key == "one" else 2)
    assert not Journal(root).is_interrupted()


def test_a_worker_can_carry_it_out_when_it_starts(root: Path) -> None:
    assert not recover(root)
    interrupted(root)

    assert recover(root)
    assert not recover(root)
    assert lines(root) == ["line"]


def test_committed_work_overcomes_any_obstacle(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    run_once(admit(root, "write", {"path": "new/deep/file", "text": "x"}, idempotency_key="one"), perform)
    (done,) = Journal(root).folder.glob("done/*.done")
    (root / "new/deep/file").rename(done / "0")
    done.rename(Journal(root).folder / f"{done.stem}.ready")
    shutil.rmtree(root / "new")
    (root / "new").symlink_to(tmp_path / "outside")

    recover(root)

    assert (root / "new/deep/file").read_text() == "x"
    assert not (root / "new").is_symlink()
    assert list((tmp_path / "outside").iterdir()) == []


paths = st.sampled_from(["a", "b", "d", "d/e", "d/f", "d/g/h", "line\nfeed", "back\\slash", "d/odd\udcff"])
steps = st.tuples(st.sampled_from(["write", "remove", "folder", "link", "private", "move"]), paths, paths)


def step(root: Path, kind: str, path: str, other: str) -> None:
    """One thing that a command may do."""
    place = root / path
    try:
        if kind == "write":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{other!r}")
        elif kind == "folder":
            place.mkdir(parents=True)
        elif kind == "link":
            place.symlink_to(other)
        elif kind == "private":
            place.chmod(0o700)
        elif kind == "move":
            place.rename(root / other)
        elif place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
    except OSError:
        pass


@settings(max_examples=60, deadline=None)
@given(before=st.lists(steps, max_size=10), work=st.lists(steps, max_size=10))
def test_work_has_the_effect_that_it_has_without_a_key(
    tmp_path_factory: pytest.TempPathFactory, before: list[tuple[str, str, str]], work: list[tuple[str, str, str]]
) -> None:
    place = tmp_path_factory.mktemp("once")
    plain, once = place / "plain", place / "once"
    for root in (plain, once):
        root.mkdir()
        for each in before:
            step(root, *each)

    def act(root: Path) -> None:
        for each in work:
            step(root, *each)

    act(plain)
    for _ in range(2):
        run_once(doing(once, act), perform)

    assert tree(once) == tree(plain)
    shutil.rmtree(place)


def test_git_works_in_a_copy(root: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    commit = "git -c user.name=A -c user.email=a@b commit --quiet -m first"
    work = admit(root, "run", {"argv": ["sh", "-ec", f"git add . && {commit}"]}, idempotency_key="one")

    ran = run_once(work, perform)

    assert ran.output["exit_code"] == 0, ran.output
    assert do(root, "diff") == {"diff": ""}
    subprocess.run(["git", "fsck", "--strict"], cwd=root, check=True, capture_output=True)


def kill(folder: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.boundary.killed_work", str(folder), str(seed), str(rounds)]
    ran = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True)
    told: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(told) == rounds
    return told


def check_kills(told: list[dict[str, Any]]) -> None:
    for each in told:
        assert each["killed"][0], each
        # Every visible part can be completed, and is completed once.
        assert each["left"] in ("before", "after") or each["interrupted"], each
        assert each["strange"] == [], each
        assert each["recovered"] in ("before", "after"), each
        assert each["replayed"] == (each["recovered"] == "after"), each
        assert each["done"] == "after", each
        assert each["again"] == [True, 0, "after"], each
        assert each["beside"] == [".done"], each
    # The kills hit every phase.
    assert {each["left"] for each in told} == {"before", "between", "after"}


def test_killed_work_takes_effect_once_or_not_at_all(tmp_path: Path) -> None:
    check_kills(kill(tmp_path, 1, KILLS))


def test_folders_that_are_closed_to_their_owner_are_no_obstacle() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        command = [sys.executable, "-m", "tests.boundary.unprivileged", folder, "60"]
        ran = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True)

    assert int(ran.stdout) > 5


@pytest.mark.soak
def test_hundreds_of_kills_leave_nothing_half_done(tmp_path: Path) -> None:
    check_kills(kill(tmp_path, int(time()), CAMPAIGN))
