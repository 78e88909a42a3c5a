"""`edit_file` ops: applied to the files of a project's module, recorded with the change, written after its commit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest

from actionengine import Actor, ErrorCode, SQLiteStorage
from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.files import unified_diff
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.roots import ModuleRoots
from actionengine.changes import change_control_services, executor, project_modules
from actionengine.changes import files as files_of_changes
from actionengine.changes.module_files import try_write_files
from actionengine.errors import ConfigurationError
from actionengine.testing import SyncBackend, run_in_mode
from actionengine.testing.backend import make_tenant
from tests.changes.conftest import SharedBackend
from tests.changes.harness import add, besides_the_log, schema
from tests.changes.shop import TEXT, Shop, edit, outcomes, replaced
from tests.harness import BOT, expect, refused
from tests.programs import ROOT

UNPROCESSABLE, CONFLICT, INVALID = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.INVALID_INPUT

FIRST = replaced(TEXT, 2, "the second line")
LAST = replaced(TEXT, 19, "the last but one")
BOTH = replaced(FIRST, 19, "the last but one")


@pytest.fixture
def harness(shared_backend: SharedBackend, tmp_path: Path) -> Shop:
    backend, read_tables, address = shared_backend
    backend.tenant, backend.other_tenant = make_tenant(), make_tenant()
    return Shop(backend, read_tables, tmp_path, address=address)


# Applying


@run_in_mode
async def test_a_merge_edits_files_and_says_so(harness: Shop) -> None:
    project = await harness.files(main=TEXT, old="gone\n")
    expect(await harness.type(project, "job", schema(title="string")))
    ops = [edit(TEXT, FIRST), edit(None, "made\n", "new/new.py"), edit("gone\n", None, "old.py"), add("job", "a")]
    change = await harness.change(project, *ops)

    merged = expect(await harness.merge(change))

    assert (merged.status, merged.applied_count) == ("Merged", 4)
    assert merged.files == ("main.py", "new/new.py", "old.py")
    assert harness.text(project) == FIRST
    assert harness.text(project, "new/new.py") == "made\n"
    assert harness.text(project, "old.py") is None
    stamps = [op.previous_snapshot for op in await harness.ops(change)][:3]
    assert [(each["file_path"], each["text"]) for each in stamps] == [
        ("main.py", TEXT),
        ("new/new.py", None),
        ("old.py", "gone\n"),
    ]
    assert stamps[1]["sha256"] is None
    assert stamps[2]["sha256_after"] is None
    assert [op.applied_version for op in await harness.ops(change)] == [1, 1, 1, 2]
    (event,) = await harness.events("changes.merged")
    assert b'"files":["main.py","new/new.py","old.py"]' in event.payload.replace(b" ", b"")
    assert outcomes(expect(await harness.write_files(change))) == dict.fromkeys(merged.files, "there")


@run_in_mode
async def test_ops_on_one_file_are_applied_in_their_order(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH))

    expect(await harness.merge(change))

    assert harness.text(project) == BOTH
    assert [op.previous_snapshot["text"] for op in await harness.ops(change)] == [TEXT, FIRST]


@run_in_mode
async def test_a_preview_shows_diffs_of_files_and_writes_nothing(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH))
    before = harness.dump()

    preview = expect(await harness.preview(change))

    (diff,) = preview.files
    assert (diff.path, diff.added, diff.removed) == ("main.py", 2, 2)
    assert "+the second line\n" in diff.diff
    assert harness.text(project) == TEXT
    assert besides_the_log(before, harness.dump()) == {}
    (entry,) = [each for each in await harness.log() if each.action == "changes.preview"]
    assert entry.output["files"] == [{"path": "main.py", "added": 2, "removed": 2}]


@run_in_mode
async def test_a_hunk_that_does_not_fit_refuses_all_of_the_change(harness: Shop) -> None:
    project = await harness.files(main=TEXT, other="other\n")
    expect(await harness.type(project, "job", schema(title="string")))
    bad = edit("other text\n", "x\n", "other.py")
    change = await harness.change(project, edit(TEXT, FIRST), add("job", "a"), bad)
    before = harness.dump()

    error = refused(await harness.merge(change), UNPROCESSABLE, "edit_file other.py", "hunk 1")

    details = error.details
    assert details["op_id"] == (await harness.ops(change))[2].id
    assert (details["hunk"], details["expected"], details["found"]) == (1, ["other text\n"], ["other\n"])
    assert details["header"].startswith("@@ -1")
    assert await harness.status(change) == "ValidationFailed"
    assert besides_the_log(before, harness.dump()) == {"ae_changes": [{"status", "updated_at"}]}
    assert (harness.text(project), harness.text(project, "other.py")) == (TEXT, "other\n")


@run_in_mode
async def test_no_file_is_made_where_another_needs_a_folder(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    for first, second in (("a", "a/b"), ("a/b", "a")):
        change = await harness.change(project, edit(None, "1\n", first), edit(None, "2\n", second))

        refused(await harness.preview(change), UNPROCESSABLE, f"edit_file {second}", repr(first))
        refused(await harness.merge(change), UNPROCESSABLE, f"edit_file {second}", repr(first))

    assert [file.name for file in harness.root(project).iterdir()] == ["main.py"]


@run_in_mode
async def test_a_file_does_not_outgrow_what_can_be_edited(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    monkeypatch.setattr(files_of_changes, "MAX_DIFF_BYTES", len(TEXT))

    refused(await harness.merge(change), UNPROCESSABLE, "main.py", "larger")

    assert harness.text(project) == TEXT


@run_in_mode
async def test_texts_are_edited_off_the_loop_up_to_a_size(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.files(main=TEXT)
    last = replaced(BOTH, 10, "the tenth line")
    change = await harness.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH), edit(BOTH, last))
    threads: list[int] = []

    def apply_diff(*arguments: Any) -> str | None:
        threads.append(get_ident())
        return unified_diff.apply_diff(*arguments)

    monkeypatch.setattr(files_of_changes, "apply_diff", apply_diff)
    monkeypatch.setattr(executor, "MAX_SNAPSHOT_BYTES", len(TEXT) + 1)

    refused(await harness.merge(change), UNPROCESSABLE, "several changes")

    assert len(threads) == 2
    assert (get_ident() in threads) == isinstance(harness.backend, SyncBackend)


@run_in_mode
async def test_what_is_no_text_is_not_edited(harness: Shop) -> None:
    project = await harness.files(main="one\n", nul="one\0\n")
    (harness.root(project) / "latin.py").write_bytes(b"\xe9\n")
    (harness.root(project) / "folder.py").mkdir()

    for path in ("nul.py", "latin.py", "folder.py", "main.py/below.py"):
        change = await harness.change(project, edit("one\n", "two\n", path))
        refused(await harness.merge(change), UNPROCESSABLE, path)


@run_in_mode
async def test_without_modules_the_answer_says_what_to_configure(harness: Shop) -> None:
    plain = harness.another()
    project = await plain.project()
    change = await plain.change(project, edit("one\n", "two\n"))

    refused(await plain.preview(change), UNPROCESSABLE, "change_control_services", "modules")
    refused(await plain.merge(change), UNPROCESSABLE, "change_control_services", "modules")
    refused(await harness.merge(await harness.change(project, edit("one\n", "two\n"))), UNPROCESSABLE, "no module")


@run_in_mode
async def test_a_module_that_is_away_is_not_the_changes_fault(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    place = harness.root(project)

    def away(self: Any, root: Path) -> None:
        raise MissingModuleError("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(ModuleFiles, "__init__", away)
        refused(await harness.merge(change), ErrorCode.UNAVAILABLE, "away")

    assert await harness.status(change) == "Draft"
    assert place.is_dir()
    expect(await harness.merge(change))


def test_workspaces_are_of_modules(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="modules"):
        change_control_services(workspaces=tmp_path)


# Paths


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "~", "C:\\x", "a\\b", ".git/hooks/x", "sub/.GIT/config"],
)
@run_in_mode
async def test_a_path_that_leads_out_is_refused_when_added(harness: Shop, path: str) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project)
    target = expect(await harness.target(change, "main.py", "file"))

    refused(await harness.target(change, path, "file"), INVALID, "the path")
    refused(await harness.op(change, edit("one\n", "two\n", path), target), INVALID, "edit_file", "file_path")


@run_in_mode
async def test_a_diff_of_another_file_is_refused_when_the_op_is_added(harness: Shop) -> None:
    change = await harness.change(await harness.files(main=TEXT))
    op_type, payload = edit(TEXT, FIRST, "other.py")

    refused(await harness.op(change, (op_type, {**payload, "file_path": "main.py"})), INVALID, "diff", "other.py")


@run_in_mode
async def test_a_link_out_of_the_module_is_refused(harness: Shop, tmp_path: Path) -> None:
    project = await harness.files(main=TEXT)
    secret = tmp_path / "secret.py"
    secret.write_text(TEXT)
    (harness.root(project) / "link.py").symlink_to(secret)
    (harness.root(project) / "out").symlink_to(tmp_path)

    for path in ("link.py", "out/secret.py"):
        change = await harness.change(project, edit(TEXT, FIRST, path))
        refused(await harness.preview(change), UNPROCESSABLE, path)
        refused(await harness.merge(change), UNPROCESSABLE, path)

    assert secret.read_text() == TEXT


@run_in_mode
async def test_a_link_is_not_edited_but_what_it_leads_to(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    link = harness.root(project) / "link.py"
    link.symlink_to("main.py")
    change = await harness.change(project, edit(TEXT, FIRST), edit(TEXT, LAST, "link.py"))

    refused(await harness.merge(change), UNPROCESSABLE, "link.py", "a link to 'main.py'")

    assert link.is_symlink()
    assert harness.text(project) == TEXT


@run_in_mode
async def test_another_tenants_change_writes_nothing(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    expect(await harness.merge(change))
    (harness.root(project) / "main.py").write_text(TEXT)

    answer = await harness.write_files(change, tenant=harness.backend.other_tenant)

    refused(answer, ErrorCode.NOT_FOUND, change.id)
    assert harness.text(project) == TEXT


# Several changes, and edits by hand


@run_in_mode
async def test_two_changes_of_one_file_both_go_through_where_they_fit(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    first, second = await harness.change(project, edit(TEXT, FIRST)), await harness.change(project, edit(TEXT, LAST))

    expect(await harness.merge(first))
    expect(await harness.merge(second))

    assert harness.text(project) == BOTH
    assert [op.applied_version for op in await harness.ops(second)] == [2]


@run_in_mode
async def test_two_edits_of_one_place_conflict_by_name(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    first = await harness.change(project, edit(TEXT, FIRST))
    second = await harness.change(project, edit(TEXT, replaced(TEXT, 2, "something else")))
    expect(await harness.merge(first))

    error = refused(await harness.merge(second), CONFLICT, first.id)

    assert error.details["since"]["change_id"] == first.id
    assert error.details["hunk"] == 1
    assert await harness.status(second) == "ValidationFailed"
    late = await harness.change(project, edit(TEXT, replaced(TEXT, 2, "something else")))
    refused(await harness.merge(late), UNPROCESSABLE)


@run_in_mode
async def test_concurrent_changes_of_one_file_all_take_effect(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    lines = (2, 7, 12, 17)
    changes = [await harness.change(project, edit(TEXT, replaced(TEXT, line, f"of {line}"))) for line in lines]

    for answer in await harness.backend.gather(*(harness.merge(change) for change in changes)):
        expect(answer)

    wanted = TEXT
    for line in lines:
        wanted = replaced(wanted, line, f"of {line}")
    if harness.text(project) != wanted:
        # The earlier edit is written after the later one has committed.
        assert "written" in outcomes(expect(await harness.write_files(changes[0]))).values()
    assert harness.text(project) == wanted
    versions = [op.applied_version for change in changes for op in await harness.ops(change)]
    assert sorted(versions) == [1, 2, 3, 4]


@run_in_mode
async def test_a_file_that_was_edited_by_hand_is_taken_as_it_is(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    expect(await harness.merge(await harness.change(project, edit(TEXT, FIRST))))
    by_hand = replaced(FIRST, 10, "by hand")
    (harness.root(project) / "main.py").write_text(by_hand)

    expect(await harness.merge(await harness.change(project, edit(TEXT, LAST))))

    assert harness.text(project) == replaced(by_hand, 19, "the last but one")


@run_in_mode
async def test_a_file_edited_before_its_write_is_not_overwritten(
    harness: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    write = try_write_files

    def write_late(*arguments: Any) -> None:
        (harness.root(project) / "main.py").write_text("by hand\n")
        write(*arguments)

    monkeypatch.setattr(files_of_changes, "try_write_files", write_late)
    assert expect(await harness.merge(change)).status == "Merged"

    assert harness.text(project) == "by hand\n"
    assert "main.py was edited after" in caplog.text
    assert outcomes(expect(await harness.write_files(change))) == {"main.py": "conflict"}
    (harness.root(project) / "main.py").write_text(TEXT)
    assert outcomes(expect(await harness.write_files(change))) == {"main.py": "written"}
    assert outcomes(expect(await harness.write_files(change))) == {"main.py": "there"}
    assert harness.text(project) == FIRST


@run_in_mode
async def test_a_module_that_is_gone_when_it_is_to_be_written_is_told(
    harness: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    root = harness.root(project)

    def write_late(*arguments: Any) -> None:
        root.rename(root.with_name("away"))
        try_write_files(*arguments)

    monkeypatch.setattr(files_of_changes, "try_write_files", write_late)
    assert expect(await harness.merge(change)).status == "Merged"

    assert f"the files of the change {change.id} are not written" in caplog.text
    assert "Traceback" not in caplog.text
    root.with_name("away").rename(root)
    assert outcomes(expect(await harness.write_files(change))) == {"main.py": "written"}


@run_in_mode
async def test_a_late_write_is_made_up_for_by_the_next_change(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.files(main=TEXT)
    first, second = await harness.change(project, edit(TEXT, FIRST)), await harness.change(project, edit(FIRST, BOTH))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "try_write_files", lambda *arguments: None)
        expect(await harness.merge(first))
    assert harness.text(project) == TEXT
    assert expect(await harness.preview(second)).files[0].removed == 1

    expect(await harness.merge(second))

    assert harness.text(project) == BOTH
    assert [op.previous_snapshot["text"] for op in await harness.ops(second)] == [FIRST]
    assert outcomes(expect(await harness.write_files(first))) == {"main.py": "there"}


@run_in_mode
async def test_writing_the_files_of_a_change_writes_later_edits(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await harness.files(main=TEXT)
    first, second = await harness.change(project, edit(TEXT, FIRST)), await harness.change(project, edit(FIRST, BOTH))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "try_write_files", lambda *arguments: None)
        expect(await harness.merge(first))
        expect(await harness.merge(second))
    assert harness.text(project) == TEXT

    assert outcomes(expect(await harness.write_files(first))) == {"main.py": "written"}

    assert harness.text(project) == BOTH
    assert outcomes(expect(await harness.write_files(second))) == {"main.py": "there"}


@run_in_mode
async def test_a_process_that_was_stopped_for_long_writes_nothing_old(
    harness: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "_WRITE_TIMEOUT", -1.0)
        expect(await harness.merge(change))
        refused(await harness.write_files(change), ErrorCode.UNAVAILABLE, "main.py")
    assert harness.text(project) == TEXT
    assert "main.py is not written" in caplog.text

    assert outcomes(expect(await harness.write_files(change))) == {"main.py": "written"}


@run_in_mode
async def test_a_change_that_is_rolled_back_writes_nothing(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    merge = ("changes.merge", {"change_id": change.id})

    await harness.run(merge, fails=True)
    assert (harness.text(project), await harness.status(change)) == (TEXT, "Draft")

    assert expect(await harness.run(merge)) == ["succeeded"]
    assert (harness.text(project), await harness.status(change)) == (FIRST, "Merged")


@run_in_mode
async def test_what_has_not_committed_is_not_written_on_demand(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST))
    merge, write = (f"changes.{name}" for name in ("merge", "write_files"))

    await harness.run((merge, {"change_id": change.id}), (write, {"change_id": change.id}), fails=True)
    assert (harness.text(project), await harness.status(change)) == (TEXT, "Draft")

    came_of_it = await harness.run((merge, {"change_id": change.id}), (write, {"change_id": change.id}))
    assert came_of_it == ["succeeded", "conflict"]
    assert harness.text(project) == FIRST


@run_in_mode
async def test_no_agent_writes_files(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    change = await harness.change(project, edit(TEXT, FIRST), by=BOT)

    refused(await harness.write_files(change, by=BOT), ErrorCode.FORBIDDEN)
    assert outcomes(expect(await harness.write_files(change, by=Actor.workflow("files")))) == {}


# Compensation


@pytest.mark.parametrize(
    "texts",
    [
        (TEXT, FIRST, BOTH),
        (TEXT, FIRST, None),
        (None, "one\r\n\x0c\n", "one\r\n\u2028 without an end"),
        ("", "no end", None),
    ],
    ids=["edited", "removed", "made", "emptied"],
)
@run_in_mode
async def test_a_compensation_restores_a_file_byte_for_byte(harness: Shop, texts: tuple[str | None, ...]) -> None:
    there: dict[str, Any] = {"main": texts[0]} if texts[0] is not None else {}
    project = await harness.files(**there)
    change = await harness.change(project, *(edit(*pair) for pair in pairwise(texts)))
    expect(await harness.merge(change))
    assert harness.text(project) == texts[-1]

    back = expect(await harness.ask("changes.plan_compensation", {"change_id": change.id}))
    expect(await harness.merge(back))

    assert harness.text(project) == texts[0]
    assert len(await harness.ops(back)) == 1
    again = expect(await harness.ask("changes.plan_compensation", {"change_id": back.id}))
    expect(await harness.merge(again))
    assert harness.text(project) == texts[-1]


@run_in_mode
async def test_what_a_later_change_stands_on_is_not_taken_back(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    first, second = await harness.change(project, edit(TEXT, FIRST)), await harness.change(project, edit(TEXT, LAST))
    third = await harness.change(project, edit(BOTH, replaced(BOTH, 2, "once more")))
    expect(await harness.merge(first))
    expect(await harness.merge(second))
    # The later change edits another place.
    expect(await harness.ask("changes.plan_compensation", {"change_id": first.id}))
    expect(await harness.merge(third))

    answer = await harness.ask("changes.plan_compensation", {"change_id": first.id})

    refused(answer, CONFLICT, "main.py", "take back the later change first")


@run_in_mode
async def test_a_compensation_takes_back_fields_and_files_together(harness: Shop) -> None:
    project = await harness.files(main=TEXT)
    expect(await harness.type(project, "job", schema(title="string")))
    change = await harness.change(project, add("job", "a"), edit(TEXT, FIRST))
    expect(await harness.execute_change(change))
    expect(await harness.op(change, edit(FIRST, BOTH)))
    expect(await harness.merge(change))
    assert harness.text(project) == BOTH

    expect(await harness.merge(expect(await harness.ask("changes.plan_compensation", {"change_id": change.id}))))

    assert harness.text(project) == TEXT
    assert await harness.names(project) == ["title"]


# Crashes


def test_files_that_a_killed_process_missed_are_written(tmp_path: Path) -> None:
    database = tmp_path / "changes.db"
    with SQLiteStorage(database) as storage:
        backend = SyncBackend(storage)
        tenant = storage.create_tenant(slug="acme", name="Acme")
        backend.tenant = tenant
        harness = Shop(backend, lambda tenants: {}, tmp_path)

        async def draft() -> tuple[Any, Any]:
            project = await harness.files(main=TEXT)
            return project, await harness.change(project, edit(TEXT, FIRST), edit(None, "made\n", "new.py"))

        project, change = backend.run(draft())
        arguments = [str(database), str(tmp_path / "modules"), str(tenant.id), change.id]
        ended = subprocess.run([sys.executable, "-m", "tests.changes.test_files", *arguments], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL

        async def repair() -> None:
            assert await harness.status(change) == "Merged"
            assert (harness.text(project), harness.text(project, "new.py")) == (TEXT, None)
            repaired = expect(await harness.write_files(change))
            assert outcomes(repaired) == {"main.py": "written", "new.py": "written"}
            assert (harness.text(project), harness.text(project, "new.py")) == (FIRST, "made\n")
            assert outcomes(expect(await harness.write_files(change))) == {"main.py": "there", "new.py": "there"}

        backend.run(repair())
        backend.close()


def merge_and_die(database: str, modules: str, tenant_id: str, change_id: str) -> None:
    """Merge a change, and die before its files are written."""
    from uuid import UUID

    from actionengine import RequestContext, Tenant, create_engine

    def die(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(files_of_changes, "try_write_files", die)  # noqa: B010 - a function is not to be assigned to
    with SQLiteStorage(database) as storage:
        services = change_control_services(open=True, modules=project_modules(ModuleRoots(modules)))
        engine = create_engine(services=services, storage=storage)
        request = RequestContext(tenant=Tenant(UUID(tenant_id), "acme"), actor=Actor.human("ann"))
        print(engine.execute_action("changes", "merge", {"change_id": change_id}, request))


if __name__ == "__main__":
    merge_and_die(*sys.argv[1:])
