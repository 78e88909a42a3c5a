"""`edit_file` ops: applied to the files of a project's module, on record with the change, written after its commit."""

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
from actionengine.changes.module_files import write_quietly
from actionengine.errors import ConfigurationError
from actionengine.testing import SyncWorld
from actionengine.testing.worlds import a_tenant
from tests.changes.conftest import Place
from tests.changes.desk import BOT, add, besides_the_log, expect, refused, scenario, schema
from tests.changes.shop import TEXT, Shop, edit, outcomes, replaced
from tests.programs import ROOT

UNPROCESSABLE, CONFLICT, INVALID = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.INVALID_INPUT

FIRST = replaced(TEXT, 2, "the second line")
LAST = replaced(TEXT, 19, "the last but one")
BOTH = replaced(FIRST, 19, "the last but one")


@pytest.fixture
def desk(place: Place, tmp_path: Path) -> Shop:
    world, read_tables, address = place
    world.tenant, world.other_tenant = a_tenant(), a_tenant()
    return Shop(world, read_tables, tmp_path, address=address)


# Applying


@scenario
async def test_a_merge_edits_files_and_says_so(desk: Shop) -> None:
    project = await desk.files(main=TEXT, old="gone\n")
    expect(await desk.type(project, "job", schema(title="string")))
    ops = [edit(TEXT, FIRST), edit(None, "made\n", "new/new.py"), edit("gone\n", None, "old.py"), add("job", "a")]
    change = await desk.change(project, *ops)

    merged = expect(await desk.merge(change))

    assert (merged.status, merged.applied_count) == ("Merged", 4)
    assert merged.files == ("main.py", "new/new.py", "old.py")
    assert desk.text(project) == FIRST
    assert desk.text(project, "new/new.py") == "made\n"
    assert desk.text(project, "old.py") is None
    stamps = [op.previous_snapshot for op in await desk.ops(change)][:3]
    assert [(each["file_path"], each["text"]) for each in stamps] == [
        ("main.py", TEXT),
        ("new/new.py", None),
        ("old.py", "gone\n"),
    ]
    assert stamps[1]["sha256"] is None
    assert stamps[2]["sha256_after"] is None
    assert [op.applied_version for op in await desk.ops(change)] == [1, 1, 1, 2]
    (event,) = await desk.events("changes.merged")
    assert b'"files":["main.py","new/new.py","old.py"]' in event.payload.replace(b" ", b"")
    assert outcomes(expect(await desk.write_files(change))) == dict.fromkeys(merged.files, "there")


@scenario
async def test_ops_on_one_file_are_applied_in_their_order(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH))

    expect(await desk.merge(change))

    assert desk.text(project) == BOTH
    assert [op.previous_snapshot["text"] for op in await desk.ops(change)] == [TEXT, FIRST]


@scenario
async def test_a_preview_shows_what_becomes_of_files_and_touches_nothing(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH))
    before = desk.dump()

    preview = expect(await desk.preview(change))

    (diff,) = preview.files
    assert (diff.path, diff.added, diff.removed) == ("main.py", 2, 2)
    assert "+the second line\n" in diff.diff
    assert desk.text(project) == TEXT
    assert besides_the_log(before, desk.dump()) == {}
    (entry,) = [each for each in await desk.log() if each.action == "changes.preview"]
    assert entry.output["files"] == [{"path": "main.py", "added": 2, "removed": 2}]


@scenario
async def test_a_hunk_that_does_not_fit_refuses_all_of_the_change(desk: Shop) -> None:
    project = await desk.files(main=TEXT, other="other\n")
    expect(await desk.type(project, "job", schema(title="string")))
    bad = edit("other text\n", "x\n", "other.py")
    change = await desk.change(project, edit(TEXT, FIRST), add("job", "a"), bad)
    before = desk.dump()

    error = refused(await desk.merge(change), UNPROCESSABLE, "edit_file other.py", "hunk 1")

    details = error.details
    assert details["op_id"] == (await desk.ops(change))[2].id
    assert (details["hunk"], details["expected"], details["found"]) == (1, ["other text\n"], ["other\n"])
    assert details["header"].startswith("@@ -1")
    assert await desk.status(change) == "ValidationFailed"
    assert besides_the_log(before, desk.dump()) == {"ae_changes": [{"status", "updated_at"}]}
    assert (desk.text(project), desk.text(project, "other.py")) == (TEXT, "other\n")


@scenario
async def test_no_file_is_made_where_another_needs_a_folder(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    for first, second in (("a", "a/b"), ("a/b", "a")):
        change = await desk.change(project, edit(None, "1\n", first), edit(None, "2\n", second))

        refused(await desk.preview(change), UNPROCESSABLE, f"edit_file {second}", repr(first))
        refused(await desk.merge(change), UNPROCESSABLE, f"edit_file {second}", repr(first))

    assert [file.name for file in desk.root(project).iterdir()] == ["main.py"]


@scenario
async def test_a_file_does_not_outgrow_what_can_be_edited(desk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    monkeypatch.setattr(files_of_changes, "MOST_TEXT", len(TEXT))

    refused(await desk.merge(change), UNPROCESSABLE, "main.py", "larger")

    assert desk.text(project) == TEXT


@scenario
async def test_texts_are_edited_beside_an_event_loop_and_no_more_of_them_than_are_kept(
    desk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await desk.files(main=TEXT)
    last = replaced(BOTH, 10, "the tenth line")
    change = await desk.change(project, edit(TEXT, FIRST), edit(FIRST, BOTH), edit(BOTH, last))
    threads: list[int] = []

    def apply_diff(*arguments: Any) -> str | None:
        threads.append(get_ident())
        return unified_diff.apply_diff(*arguments)

    monkeypatch.setattr(files_of_changes, "apply_diff", apply_diff)
    monkeypatch.setattr(executor, "MOST_STAMPS", len(TEXT) + 1)

    refused(await desk.merge(change), UNPROCESSABLE, "several changes")

    assert len(threads) == 2
    assert (get_ident() in threads) == isinstance(desk.world, SyncWorld)


@scenario
async def test_what_is_no_text_is_not_edited(desk: Shop) -> None:
    project = await desk.files(main="one\n", nul="one\0\n")
    (desk.root(project) / "latin.py").write_bytes(b"\xe9\n")
    (desk.root(project) / "folder.py").mkdir()

    for path in ("nul.py", "latin.py", "folder.py", "main.py/below.py"):
        change = await desk.change(project, edit("one\n", "two\n", path))
        refused(await desk.merge(change), UNPROCESSABLE, path)


@scenario
async def test_without_modules_the_answer_says_what_to_configure(desk: Shop) -> None:
    plain = desk.another()
    project = await plain.project()
    change = await plain.change(project, edit("one\n", "two\n"))

    refused(await plain.preview(change), UNPROCESSABLE, "change_control_services", "modules")
    refused(await plain.merge(change), UNPROCESSABLE, "change_control_services", "modules")
    refused(await desk.merge(await desk.change(project, edit("one\n", "two\n"))), UNPROCESSABLE, "no module")


@scenario
async def test_a_module_that_is_away_is_not_the_changes_fault(desk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    place = desk.root(project)

    def away(self: Any, root: Path) -> None:
        raise MissingModuleError("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(ModuleFiles, "__init__", away)
        refused(await desk.merge(change), ErrorCode.UNAVAILABLE, "away")

    assert await desk.status(change) == "Draft"
    assert place.is_dir()
    expect(await desk.merge(change))


def test_workspaces_are_of_modules(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="modules"):
        change_control_services(workspaces=tmp_path)


# Paths


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "~", "C:\\x", "a\\b", ".git/hooks/x", "sub/.GIT/config"],
)
@scenario
async def test_a_path_that_leads_out_is_refused_when_the_target_or_the_op_is_added(desk: Shop, path: str) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project)
    target = expect(await desk.target(change, "main.py", "file"))

    refused(await desk.target(change, path, "file"), INVALID, "the path")
    refused(await desk.op(change, edit("one\n", "two\n", path), target), INVALID, "edit_file", "file_path")


@scenario
async def test_a_diff_of_another_file_is_refused_when_the_op_is_added(desk: Shop) -> None:
    change = await desk.change(await desk.files(main=TEXT))
    op_type, payload = edit(TEXT, FIRST, "other.py")

    refused(await desk.op(change, (op_type, {**payload, "file_path": "main.py"})), INVALID, "diff", "other.py")


@scenario
async def test_a_link_out_of_the_module_is_refused_and_what_it_leads_to_stays(desk: Shop, tmp_path: Path) -> None:
    project = await desk.files(main=TEXT)
    secret = tmp_path / "secret.py"
    secret.write_text(TEXT)
    (desk.root(project) / "link.py").symlink_to(secret)
    (desk.root(project) / "out").symlink_to(tmp_path)

    for path in ("link.py", "out/secret.py"):
        change = await desk.change(project, edit(TEXT, FIRST, path))
        refused(await desk.preview(change), UNPROCESSABLE, path)
        refused(await desk.merge(change), UNPROCESSABLE, path)

    assert secret.read_text() == TEXT


@scenario
async def test_a_link_is_not_edited_but_what_it_leads_to(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    link = desk.root(project) / "link.py"
    link.symlink_to("main.py")
    change = await desk.change(project, edit(TEXT, FIRST), edit(TEXT, LAST, "link.py"))

    refused(await desk.merge(change), UNPROCESSABLE, "link.py", "a link to 'main.py'")

    assert link.is_symlink()
    assert desk.text(project) == TEXT


@scenario
async def test_another_tenants_change_writes_nothing(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    expect(await desk.merge(change))
    (desk.root(project) / "main.py").write_text(TEXT)

    answer = await desk.write_files(change, tenant=desk.world.other_tenant)

    refused(answer, ErrorCode.NOT_FOUND, change.id)
    assert desk.text(project) == TEXT


# Several changes, and hands


@scenario
async def test_two_changes_of_one_file_both_go_through_where_they_fit(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    first, second = await desk.change(project, edit(TEXT, FIRST)), await desk.change(project, edit(TEXT, LAST))

    expect(await desk.merge(first))
    expect(await desk.merge(second))

    assert desk.text(project) == BOTH
    assert [op.applied_version for op in await desk.ops(second)] == [2]


@scenario
async def test_two_changes_of_one_place_are_a_conflict_that_names_the_other(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    first = await desk.change(project, edit(TEXT, FIRST))
    second = await desk.change(project, edit(TEXT, replaced(TEXT, 2, "something else")))
    expect(await desk.merge(first))

    error = refused(await desk.merge(second), CONFLICT, first.id)

    assert error.details["since"]["change_id"] == first.id
    assert error.details["hunk"] == 1
    assert await desk.status(second) == "ValidationFailed"
    late = await desk.change(project, edit(TEXT, replaced(TEXT, 2, "something else")))
    refused(await desk.merge(late), UNPROCESSABLE)


@scenario
async def test_changes_of_one_file_that_are_merged_at_once_all_take_effect(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    lines = (2, 7, 12, 17)
    changes = [await desk.change(project, edit(TEXT, replaced(TEXT, line, f"of {line}"))) for line in lines]

    for answer in await desk.world.at_once(*(desk.merge(change) for change in changes)):
        expect(answer)

    wanted = TEXT
    for line in lines:
        wanted = replaced(wanted, line, f"of {line}")
    if desk.text(project) != wanted:
        # The one that was committed last had not been written when the one before was to be.
        assert "written" in outcomes(expect(await desk.write_files(changes[0]))).values()
    assert desk.text(project) == wanted
    versions = [op.applied_version for change in changes for op in await desk.ops(change)]
    assert sorted(versions) == [1, 2, 3, 4]


@scenario
async def test_a_file_that_was_edited_by_hand_is_taken_as_it_is(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    expect(await desk.merge(await desk.change(project, edit(TEXT, FIRST))))
    by_hand = replaced(FIRST, 10, "by hand")
    (desk.root(project) / "main.py").write_text(by_hand)

    expect(await desk.merge(await desk.change(project, edit(TEXT, LAST))))

    assert desk.text(project) == replaced(by_hand, 19, "the last but one")


@scenario
async def test_a_file_that_is_another_when_it_is_to_be_written_is_left_alone(
    desk: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    write = write_quietly

    def write_late(*arguments: Any) -> None:
        (desk.root(project) / "main.py").write_text("by hand\n")
        write(*arguments)

    monkeypatch.setattr(files_of_changes, "write_quietly", write_late)
    assert expect(await desk.merge(change)).status == "Merged"

    assert desk.text(project) == "by hand\n"
    assert "main.py is another file by now" in caplog.text
    assert outcomes(expect(await desk.write_files(change))) == {"main.py": "conflict"}
    (desk.root(project) / "main.py").write_text(TEXT)
    assert outcomes(expect(await desk.write_files(change))) == {"main.py": "written"}
    assert outcomes(expect(await desk.write_files(change))) == {"main.py": "there"}
    assert desk.text(project) == FIRST


@scenario
async def test_a_module_that_is_gone_when_it_is_to_be_written_is_told(
    desk: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    root = desk.root(project)

    def write_late(*arguments: Any) -> None:
        root.rename(root.with_name("away"))
        write_quietly(*arguments)

    monkeypatch.setattr(files_of_changes, "write_quietly", write_late)
    assert expect(await desk.merge(change)).status == "Merged"

    assert f"the files of the change {change.id} are not written" in caplog.text
    assert "Traceback" not in caplog.text
    root.with_name("away").rename(root)
    assert outcomes(expect(await desk.write_files(change))) == {"main.py": "written"}


@scenario
async def test_a_late_write_is_made_up_for_by_the_next_change(desk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await desk.files(main=TEXT)
    first, second = await desk.change(project, edit(TEXT, FIRST)), await desk.change(project, edit(FIRST, BOTH))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "write_quietly", lambda *arguments: None)
        expect(await desk.merge(first))
    assert desk.text(project) == TEXT
    assert expect(await desk.preview(second)).files[0].removed == 1

    expect(await desk.merge(second))

    assert desk.text(project) == BOTH
    assert [op.previous_snapshot["text"] for op in await desk.ops(second)] == [FIRST]
    assert outcomes(expect(await desk.write_files(first))) == {"main.py": "there"}


@scenario
async def test_writing_the_files_of_one_change_brings_later_edits_of_them_too(
    desk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await desk.files(main=TEXT)
    first, second = await desk.change(project, edit(TEXT, FIRST)), await desk.change(project, edit(FIRST, BOTH))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "write_quietly", lambda *arguments: None)
        expect(await desk.merge(first))
        expect(await desk.merge(second))
    assert desk.text(project) == TEXT

    assert outcomes(expect(await desk.write_files(first))) == {"main.py": "written"}

    assert desk.text(project) == BOTH
    assert outcomes(expect(await desk.write_files(second))) == {"main.py": "there"}


@scenario
async def test_a_process_that_was_stopped_for_long_writes_nothing_old(
    desk: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    with monkeypatch.context() as patched:
        patched.setattr(files_of_changes, "_SOON", -1.0)
        expect(await desk.merge(change))
        refused(await desk.write_files(change), ErrorCode.UNAVAILABLE, "main.py")
    assert desk.text(project) == TEXT
    assert "main.py is not written" in caplog.text

    assert outcomes(expect(await desk.write_files(change))) == {"main.py": "written"}


@scenario
async def test_a_change_that_is_rolled_back_writes_nothing(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    merge = ("changes.merge", {"change_id": change.id})

    await desk.run(merge, fails=True)
    assert (desk.text(project), await desk.status(change)) == (TEXT, "Draft")

    assert expect(await desk.run(merge)) == ["succeeded"]
    assert (desk.text(project), await desk.status(change)) == (FIRST, "Merged")


@scenario
async def test_what_has_not_committed_is_not_written_on_demand(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST))
    merge, write = (f"changes.{name}" for name in ("merge", "write_files"))

    await desk.run((merge, {"change_id": change.id}), (write, {"change_id": change.id}), fails=True)
    assert (desk.text(project), await desk.status(change)) == (TEXT, "Draft")

    came_of_it = await desk.run((merge, {"change_id": change.id}), (write, {"change_id": change.id}))
    assert came_of_it == ["succeeded", "conflict"]
    assert desk.text(project) == FIRST


@scenario
async def test_no_agent_writes_files(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    change = await desk.change(project, edit(TEXT, FIRST), by=BOT)

    refused(await desk.write_files(change, by=BOT), ErrorCode.FORBIDDEN)
    assert outcomes(expect(await desk.write_files(change, by=Actor.workflow("files")))) == {}


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
@scenario
async def test_a_compensation_restores_a_file_byte_for_byte(desk: Shop, texts: tuple[str | None, ...]) -> None:
    there: dict[str, Any] = {"main": texts[0]} if texts[0] is not None else {}
    project = await desk.files(**there)
    change = await desk.change(project, *(edit(*pair) for pair in pairwise(texts)))
    expect(await desk.merge(change))
    assert desk.text(project) == texts[-1]

    back = expect(await desk.ask("changes.plan_compensation", {"change_id": change.id}))
    expect(await desk.merge(back))

    assert desk.text(project) == texts[0]
    assert len(await desk.ops(back)) == 1
    again = expect(await desk.ask("changes.plan_compensation", {"change_id": back.id}))
    expect(await desk.merge(again))
    assert desk.text(project) == texts[-1]


@scenario
async def test_what_a_later_change_stands_on_is_not_taken_back(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    first, second = await desk.change(project, edit(TEXT, FIRST)), await desk.change(project, edit(TEXT, LAST))
    third = await desk.change(project, edit(BOTH, replaced(BOTH, 2, "once more")))
    expect(await desk.merge(first))
    expect(await desk.merge(second))
    # The later one is about another place.
    expect(await desk.ask("changes.plan_compensation", {"change_id": first.id}))
    expect(await desk.merge(third))

    answer = await desk.ask("changes.plan_compensation", {"change_id": first.id})

    refused(answer, CONFLICT, "main.py", "take back the later change first")


@scenario
async def test_a_compensation_takes_back_fields_and_files_together(desk: Shop) -> None:
    project = await desk.files(main=TEXT)
    expect(await desk.type(project, "job", schema(title="string")))
    change = await desk.change(project, add("job", "a"), edit(TEXT, FIRST))
    expect(await desk.execute(change))
    expect(await desk.op(change, edit(FIRST, BOTH)))
    expect(await desk.merge(change))
    assert desk.text(project) == BOTH

    expect(await desk.merge(expect(await desk.ask("changes.plan_compensation", {"change_id": change.id}))))

    assert desk.text(project) == TEXT
    assert await desk.names(project) == ["title"]


# Crashes


def test_what_a_killed_process_has_not_written_is_written_afterwards(tmp_path: Path) -> None:
    database = tmp_path / "changes.db"
    with SQLiteStorage(database) as storage:
        world = SyncWorld(storage)
        tenant = storage.create_tenant(slug="acme", name="Acme")
        world.tenant = tenant
        desk = Shop(world, lambda tenants: {}, tmp_path)

        async def draft() -> tuple[Any, Any]:
            project = await desk.files(main=TEXT)
            return project, await desk.change(project, edit(TEXT, FIRST), edit(None, "made\n", "new.py"))

        project, change = world.run(draft())
        arguments = [str(database), str(tmp_path / "modules"), str(tenant.id), change.id]
        ended = subprocess.run([sys.executable, "-m", "tests.changes.test_files", *arguments], cwd=ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL

        async def repair() -> None:
            assert await desk.status(change) == "Merged"
            assert (desk.text(project), desk.text(project, "new.py")) == (TEXT, None)
            repaired = expect(await desk.write_files(change))
            assert outcomes(repaired) == {"main.py": "written", "new.py": "written"}
            assert (desk.text(project), desk.text(project, "new.py")) == (FIRST, "made\n")
            assert outcomes(expect(await desk.write_files(change))) == {"main.py": "there", "new.py": "there"}

        world.run(repair())
        world.close()


def merge_and_die(database: str, modules: str, tenant_id: str, change_id: str) -> None:
    """Merge a change, and die when its files are to be written."""
    from uuid import UUID

    from actionengine import RequestContext, Tenant, create_engine

    def die(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(files_of_changes, "write_quietly", die)  # noqa: B010 - a function is not to be assigned to
    with SQLiteStorage(database) as storage:
        services = change_control_services(open=True, modules=project_modules(ModuleRoots(modules)))
        engine = create_engine(services=services, storage=storage)
        request = RequestContext(tenant=Tenant(UUID(tenant_id), "acme"), actor=Actor.human("ann"))
        print(engine.execute_action("changes", "merge", {"change_id": change_id}, request))


if __name__ == "__main__":
    merge_and_die(*sys.argv[1:])
