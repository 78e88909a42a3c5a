"""Workspaces: the working copy of a module in which a change is tried, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import shutil
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from actionengine import ActionError, Actor, ErrorCode
from actionengine.boundary.idempotency.working_copy import WorkingCopy
from actionengine.changes import ChangeControlPermissions, workspace_module
from actionengine.concurrency.run_sync import run_sync
from actionengine.testing import AsyncBackend, run_in_mode
from actionengine.testing.backend import make_tenant
from tests.changes.conftest import SharedBackend
from tests.changes.harness import add, schema
from tests.changes.shop import TEXT, Shop, edit, replaced
from tests.harness import BOT, expect, refused

UNPROCESSABLE, CONFLICT, NOT_FOUND = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.NOT_FOUND

FIRST = replaced(TEXT, 2, "the second line")
BOTH = replaced(FIRST, 19, "the last but one")


@pytest.fixture
def harness(shared_backend: SharedBackend, tmp_path: Path) -> Shop:
    backend, read_tables, address = shared_backend
    backend.tenant, backend.other_tenant = make_tenant(), make_tenant()
    return Shop(backend, read_tables, tmp_path, address=address)


async def implementing(harness: Shop, *texts: str, **options: Any) -> tuple[Any, Any]:
    """Create a project with a file, and a change of it in `Implementing`."""
    project = await harness.files(main=TEXT, other="other\n", **options)
    change = await harness.change(project, *(edit(*pair) for pair in zip((TEXT, *texts), texts, strict=False)))
    if not texts:
        expect(await harness.target(change, "main.py", "file"))
    expect(await harness.move(change, "Implementing"))
    return project, change


@run_in_mode
async def test_a_workspace_is_a_copy_in_which_the_ops_stand(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)

    started = expect(await harness.start(change))

    assert (started.status, started.module_id, started.started_by) == ("running", project.id, "human:ann")
    assert await harness.status(change) == "WorkspaceRunning"
    assert harness.copy(change).read_text() == FIRST
    assert harness.copy(change, "other.py").read_text() == "other\n"
    assert harness.text(project) == TEXT
    module = workspace_module(harness.workspaces, harness.backend.tenant, change.id)
    assert module.root == harness.copy(change).parent


@run_in_mode
async def test_a_look_brings_the_copy_up_to_date_with_the_ops(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    second = expect(await harness.op(change, edit(FIRST, BOTH)))
    bad = expect(await harness.op(change, edit("no such line\n", "x\n")))

    view = expect(await harness.workspace(change))

    assert harness.copy(change).read_text() == BOTH
    assert [op.fits for op in view.ops] == [True, True, False]
    assert (view.ops[2].op_id, view.ops[2].hunk) == (bad.id, 1)
    assert (view.ops[2].expected, view.ops[2].found) == (("no such line\n",), ("line 1\n",))
    assert "+the second line\n" in view.diff
    assert "+the last but one\n" in view.diff
    expect(await harness.delete_op(change, bad))
    expect(await harness.delete_op(change, second))
    expect(await harness.workspace(change))
    assert harness.copy(change).read_text() == FIRST
    expect(await harness.delete_op(change, (await harness.ops(change))[0]))
    view = expect(await harness.workspace(change))
    assert (view.ops, view.diff) == ((), "")
    assert harness.copy(change).read_text() == TEXT


@run_in_mode
async def test_what_somebody_edits_there_is_shown_and_left_alone(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    harness.copy(change).write_text("by hand\n")
    harness.copy(change, "made.py").write_text("made\n")

    view = expect(await harness.workspace(change))

    assert view.skipped_files == ("main.py",)
    assert "+by hand\n" in view.diff
    assert "+made\n" in view.diff
    assert harness.copy(change).read_text() == "by hand\n"


@run_in_mode
async def test_a_copy_that_is_missing_is_made_again(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    shutil.rmtree(harness.workspaces)

    view = expect(await harness.workspace(change))

    assert view.status == "running"
    assert "+the second line\n" in view.diff
    shutil.rmtree(harness.workspaces)
    expect(await harness.start(change))
    assert harness.copy(change).read_text() == FIRST


@run_in_mode
async def test_stopping_drops_the_copy_unless_it_is_to_be_kept(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))

    stopped = expect(await harness.stop(change))

    assert (stopped.status, stopped.kept) == ("stopped", False)
    assert stopped.stopped_at is not None
    assert await harness.status(change) == "Implementing"
    assert not harness.copy(change).exists()
    assert expect(await harness.workspace(change)).diff == ""
    expect(await harness.start(change))
    harness.copy(change, "made.py").write_text("made\n")
    assert expect(await harness.stop(change, keep=True)).kept
    assert "+made\n" in expect(await harness.workspace(change)).diff
    expect(await harness.start(change))
    assert harness.copy(change, "made.py").read_text() == "made\n"
    expect(await harness.stop(change, keep=True))
    assert not expect(await harness.stop(change)).kept
    assert not harness.copy(change).exists()
    events = [each for each in await harness.events() if each.type == "changes.stop_workspace"]
    expect(await harness.stop(change))
    assert [each for each in await harness.events() if each.type == "changes.stop_workspace"] == events


@run_in_mode
async def test_transitions_start_and_stop_workspaces(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)

    expect(await harness.move(change, "WorkspaceRunning"))
    assert harness.copy(change).read_text() == FIRST
    assert expect(await harness.workspace(change)).status == "running"

    expect(await harness.move(change, "Validating"))
    assert not harness.copy(change).exists()
    assert expect(await harness.workspace(change)).status == "stopped"


@run_in_mode
async def test_merging_ends_a_workspace(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    expect(await harness.stop(change, keep=True))
    expect(await harness.move(change, "Validating", "Ready"))
    assert harness.copy(change).exists()

    expect(await harness.merge(change))

    assert harness.text(project) == FIRST
    assert not harness.copy(change).exists()
    view = expect(await harness.workspace(change))
    assert (view.status, view.kept) == ("stopped", False)
    refused(await harness.start(change), CONFLICT, "Merged")


@run_in_mode
async def test_a_start_that_is_rolled_back_leaves_no_folder(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)

    await harness.run(("changes.start_workspace", {"change_id": change.id}), fails=True)

    assert not harness.workspaces.exists()
    refused(await harness.workspace(change), NOT_FOUND, change.id)
    assert await harness.status(change) == "Implementing"


@run_in_mode
async def test_a_workspace_is_started_once(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    first = expect(await harness.start(change))
    harness.copy(change, "made.py").write_text("made\n")

    assert expect(await harness.start(change, by=BOT)) == first

    assert harness.copy(change, "made.py").exists()


@run_in_mode
async def test_what_cannot_have_a_workspace_says_why(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)
    draft = await harness.change(project, edit(TEXT, FIRST))
    refused(await harness.start(draft), CONFLICT, "Draft", "Implementing")
    refused(await harness.stop(change), CONFLICT, "no workspace")
    expect(await harness.type(project, "job", schema(title="string")))
    on_a_type = await harness.change(project, add("job", "a"))
    expect(await harness.move(on_a_type, "Implementing"))
    refused(await harness.start(on_a_type), CONFLICT, "no file")
    plain = harness.another()
    refused(await plain.ask("changes.start_workspace", {"change_id": change.id}), UNPROCESSABLE, "modules")
    no_folder = harness.another(modules=lambda tenant, project_id: harness.roots.context(tenant, project_id))
    refused(await no_folder.ask("changes.start_workspace", {"change_id": change.id}), UNPROCESSABLE, "workspaces")
    assert not harness.workspaces.exists()
    # Without a file, or without modules, it is a state like the others.
    assert expect(await harness.move(on_a_type, "WorkspaceRunning")).status == "WorkspaceRunning"
    assert expect(await plain.move(change, "WorkspaceRunning")).status == "WorkspaceRunning"
    expect(await harness.start(change))
    assert harness.copy(change).read_text() == FIRST


@run_in_mode
async def test_a_module_that_has_moved_on_is_told(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    expect(await harness.merge(await harness.change(project, edit(TEXT, replaced(TEXT, 19, "moved on")))))

    refused(await harness.workspace(change), CONFLICT, "main.py", "stop the workspace")

    expect(await harness.stop(change))
    expect(await harness.start(change))
    assert expect(await harness.workspace(change)).diff.count("\n+") == 2


def stop_before_copying(harness: Shop, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the workspace just before its copy is created."""
    create = WorkingCopy.create
    loop = asyncio.get_running_loop() if isinstance(harness.backend, AsyncBackend) else None

    def create_late(*arguments: Any) -> WorkingCopy:
        monkeypatch.undo()
        stopping = harness.stop(change)
        expect(run_sync(stopping) if loop is None else asyncio.run_coroutine_threadsafe(stopping, loop).result())
        return create(*arguments)

    monkeypatch.setattr(WorkingCopy, "create", create_late)


@run_in_mode
async def test_no_copy_is_left_by_a_start_that_is_slower_than_the_stop(
    harness: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, change = await implementing(harness, FIRST)
    stop_before_copying(harness, change, monkeypatch)

    expect(await harness.start(change))

    assert await harness.status(change) == "Implementing"
    assert not harness.copy(change).exists()
    expect(await harness.start(change))
    assert harness.copy(change).read_text() == FIRST


@run_in_mode
async def test_no_copy_is_left_by_a_look_that_is_slower_than_the_stop(
    harness: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    shutil.rmtree(harness.workspaces)
    stop_before_copying(harness, change, monkeypatch)

    refused(await harness.workspace(change), CONFLICT, "stopped meanwhile")

    assert not harness.copy(change).exists()
    (mark,) = harness.copy(change).parents[2].iterdir()
    mark.write_bytes(b"")
    expect(await harness.start(change))
    assert expect(await harness.workspace(change)).ops[0].fits


@run_in_mode
async def test_of_marks_of_stopped_workspaces_only_new_ones_are_kept(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)
    other = await harness.change(project, edit(TEXT, FIRST))
    expect(await harness.move(other, "Implementing", "WorkspaceRunning"))
    expect(await harness.start(change))
    expect(await harness.stop(change))
    tenants = harness.copy(change).parents[2]
    (mark,) = tenants.glob(f".{change.id}.*")
    os.utime(mark, (0, 0))

    expect(await harness.stop(other))

    assert [each.name for each in tenants.iterdir()] == [f".{other.id}.closed"]


@run_in_mode
async def test_a_start_that_has_not_committed_has_no_copy_to_look_at(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    start, look = (f"changes.{name}" for name in ("start_workspace", "workspace"))

    came_of_it = await harness.run((start, {"change_id": change.id}), (look, {"change_id": change.id}))

    assert came_of_it == ["succeeded", "conflict"]
    assert expect(await harness.workspace(change)).status == "running"
    expect(await harness.stop(change))
    await harness.run((start, {"change_id": change.id}), (look, {"change_id": change.id}), fails=True)
    assert not harness.copy(change).exists()


@pytest.mark.parametrize("name", ["base.json", "ops.json"])
@run_in_mode
async def test_a_copy_that_is_damaged_is_told(harness: Shop, name: str) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    (harness.copy(change).parents[1] / name).write_bytes(b"")

    refused(await harness.workspace(change), CONFLICT, "damaged", "start it again")

    expect(await harness.stop(change))
    expect(await harness.start(change))
    assert expect(await harness.workspace(change)).ops[0].fits


@run_in_mode
async def test_a_full_disk_is_no_fault_of_the_change(harness: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        refused(await harness.workspace(change), ErrorCode.UNAVAILABLE, "No space left")
        expect(await harness.stop(change))

    assert not list(harness.copy(change).parents[2].iterdir())


@run_in_mode
async def test_tenants_do_not_see_each_others_workspaces(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    other = harness.backend.other_tenant

    for name in ("start_workspace", "stop_workspace", "workspace"):
        refused(await harness.ask(f"changes.{name}", {"change_id": change.id}, tenant=other), NOT_FOUND, change.id)

    with pytest.raises(ActionError, match="no working copy"):
        workspace_module(harness.workspaces, other, change.id)
    assert [folder.name for folder in harness.workspaces.iterdir()] == [str(harness.backend.tenant.id)]
    assert expect(await harness.workspace(change)).status == "running"


@run_in_mode
async def test_no_id_leads_out_of_the_workspaces_of_a_tenant(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    own, other = harness.backend.tenant, harness.backend.other_tenant
    absolute = str(harness.workspaces / str(own.id) / change.id)

    for id in (f"../{own.id}/{change.id}", absolute, f"./{change.id}", "..", "", "a\0b"):
        with pytest.raises(ActionError) as caught:
            workspace_module(harness.workspaces, other, id)
        assert caught.value.code is NOT_FOUND


@run_in_mode
async def test_stopping_again_removes_what_a_crash_left(harness: Shop) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    folder = harness.copy(change).parent.parent
    shutil.copytree(folder, folder.with_name("kept by the crash"))
    expect(await harness.stop(change))
    folder.with_name("kept by the crash").rename(folder)

    stopped = expect(await harness.stop(change))

    assert stopped.status == "stopped"
    assert not folder.exists()


@run_in_mode
async def test_a_link_out_of_the_copy_is_not_followed(harness: Shop, tmp_path: Path) -> None:
    _, change = await implementing(harness, FIRST)
    expect(await harness.start(change))
    secret = tmp_path / "secret.py"
    secret.write_text("secret\n")
    harness.copy(change).unlink()
    harness.copy(change).symlink_to(secret)

    view = expect(await harness.workspace(change))

    assert view.skipped_files == ("main.py",)
    assert "+secret\n" not in view.diff
    assert secret.read_text() == "secret\n"


@run_in_mode
async def test_authors_start_and_stop_and_readers_look(harness: Shop) -> None:
    project, change = await implementing(harness, FIRST)
    governed = harness.another(
        permissions=ChangeControlPermissions(), modules=harness.settings[0], workspaces=harness.settings[1]
    )
    about = {"change_id": change.id}
    author = Actor.ai("bot", permissions=["changes.author"])
    reader = Actor.human("rea", permissions=["changes.read"])

    refused(await governed.ask("changes.start_workspace", about, by=reader), ErrorCode.FORBIDDEN)
    expect(await governed.ask("changes.start_workspace", about, by=author))
    refused(await governed.ask("changes.workspace", about, by=author), ErrorCode.FORBIDDEN)
    assert expect(await governed.ask("changes.workspace", about, by=reader)).status == "running"
    expect(await governed.ask("changes.stop_workspace", about, by=author))
    assert harness.text(project) == TEXT
