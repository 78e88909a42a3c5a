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
from actionengine.concurrency.run_sync import drive
from actionengine.testing import AsyncWorld
from actionengine.testing.worlds import a_tenant
from tests.changes.conftest import Place
from tests.changes.desk import BOT, add, expect, refused, scenario, schema
from tests.changes.shop import TEXT, Shop, edit, replaced

UNPROCESSABLE, CONFLICT, NOT_FOUND = ErrorCode.UNPROCESSABLE, ErrorCode.CONFLICT, ErrorCode.NOT_FOUND

FIRST = replaced(TEXT, 2, "the second line")
BOTH = replaced(FIRST, 19, "the last but one")


@pytest.fixture
def desk(place: Place, tmp_path: Path) -> Shop:
    world, read_tables, address = place
    world.tenant, world.other_tenant = a_tenant(), a_tenant()
    return Shop(world, read_tables, tmp_path, address=address)


async def implementing(desk: Shop, *texts: str, **options: Any) -> tuple[Any, Any]:
    """A project with a file, and a change of it that is worked on."""
    project = await desk.files(main=TEXT, other="other\n", **options)
    change = await desk.change(project, *(edit(*pair) for pair in zip((TEXT, *texts), texts, strict=False)))
    if not texts:
        expect(await desk.target(change, "main.py", "file"))
    expect(await desk.move(change, "Implementing"))
    return project, change


@scenario
async def test_a_workspace_is_a_copy_in_which_the_ops_stand(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)

    started = expect(await desk.start(change))

    assert (started.status, started.module_id, started.started_by) == ("running", project.id, "human:ann")
    assert await desk.status(change) == "WorkspaceRunning"
    assert desk.copy(change).read_text() == FIRST
    assert desk.copy(change, "other.py").read_text() == "other\n"
    assert desk.text(project) == TEXT
    module = workspace_module(desk.workspaces, desk.world.tenant, change.id)
    assert module.root == desk.copy(change).parent


@scenario
async def test_a_look_brings_the_copy_up_to_date_with_the_ops(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    second = expect(await desk.op(change, edit(FIRST, BOTH)))
    bad = expect(await desk.op(change, edit("no such line\n", "x\n")))

    view = expect(await desk.workspace(change))

    assert desk.copy(change).read_text() == BOTH
    assert [op.fits for op in view.ops] == [True, True, False]
    assert (view.ops[2].op_id, view.ops[2].hunk) == (bad.id, 1)
    assert (view.ops[2].expected, view.ops[2].found) == (("no such line\n",), ("line 1\n",))
    assert "+the second line\n" in view.diff
    assert "+the last but one\n" in view.diff
    expect(await desk.delete_op(change, bad))
    expect(await desk.delete_op(change, second))
    expect(await desk.workspace(change))
    assert desk.copy(change).read_text() == FIRST
    expect(await desk.delete_op(change, (await desk.ops(change))[0]))
    view = expect(await desk.workspace(change))
    assert (view.ops, view.diff) == ((), "")
    assert desk.copy(change).read_text() == TEXT


@scenario
async def test_what_somebody_edits_there_is_shown_and_left_alone(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    desk.copy(change).write_text("by hand\n")
    desk.copy(change, "made.py").write_text("made\n")

    view = expect(await desk.workspace(change))

    assert view.left_alone == ("main.py",)
    assert "+by hand\n" in view.diff
    assert "+made\n" in view.diff
    assert desk.copy(change).read_text() == "by hand\n"


@scenario
async def test_a_copy_that_is_missing_is_made_again(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    shutil.rmtree(desk.workspaces)

    view = expect(await desk.workspace(change))

    assert view.status == "running"
    assert "+the second line\n" in view.diff
    shutil.rmtree(desk.workspaces)
    expect(await desk.start(change))
    assert desk.copy(change).read_text() == FIRST


@scenario
async def test_stopping_drops_the_copy_unless_it_is_to_be_kept(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))

    stopped = expect(await desk.stop(change))

    assert (stopped.status, stopped.kept) == ("stopped", False)
    assert stopped.stopped_at is not None
    assert await desk.status(change) == "Implementing"
    assert not desk.copy(change).exists()
    assert expect(await desk.workspace(change)).diff == ""
    expect(await desk.start(change))
    desk.copy(change, "made.py").write_text("made\n")
    assert expect(await desk.stop(change, keep=True)).kept
    assert "+made\n" in expect(await desk.workspace(change)).diff
    expect(await desk.start(change))
    assert desk.copy(change, "made.py").read_text() == "made\n"
    expect(await desk.stop(change, keep=True))
    assert not expect(await desk.stop(change)).kept
    assert not desk.copy(change).exists()
    events = [each for each in await desk.events() if each.type == "changes.stop_workspace"]
    expect(await desk.stop(change))
    assert [each for each in await desk.events() if each.type == "changes.stop_workspace"] == events


@scenario
async def test_transitions_start_and_stop_workspaces(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)

    expect(await desk.move(change, "WorkspaceRunning"))
    assert desk.copy(change).read_text() == FIRST
    assert expect(await desk.workspace(change)).status == "running"

    expect(await desk.move(change, "Validating"))
    assert not desk.copy(change).exists()
    assert expect(await desk.workspace(change)).status == "stopped"


@scenario
async def test_merging_ends_a_workspace(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    expect(await desk.stop(change, keep=True))
    expect(await desk.move(change, "Validating", "Ready"))
    assert desk.copy(change).exists()

    expect(await desk.merge(change))

    assert desk.text(project) == FIRST
    assert not desk.copy(change).exists()
    view = expect(await desk.workspace(change))
    assert (view.status, view.kept) == ("stopped", False)
    refused(await desk.start(change), CONFLICT, "Merged")


@scenario
async def test_a_start_that_is_rolled_back_leaves_no_folder(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)

    await desk.run(("changes.start_workspace", {"change_id": change.id}), fails=True)

    assert not desk.workspaces.exists()
    refused(await desk.workspace(change), NOT_FOUND, change.id)
    assert await desk.status(change) == "Implementing"


@scenario
async def test_a_workspace_is_started_once(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    first = expect(await desk.start(change))
    desk.copy(change, "made.py").write_text("made\n")

    assert expect(await desk.start(change, by=BOT)) == first

    assert desk.copy(change, "made.py").exists()


@scenario
async def test_what_cannot_have_a_workspace_says_why(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)
    draft = await desk.change(project, edit(TEXT, FIRST))
    refused(await desk.start(draft), CONFLICT, "Draft", "Implementing")
    refused(await desk.stop(change), CONFLICT, "no workspace")
    expect(await desk.type(project, "job", schema(title="string")))
    on_a_type = await desk.change(project, add("job", "a"))
    expect(await desk.move(on_a_type, "Implementing"))
    refused(await desk.start(on_a_type), CONFLICT, "no file")
    plain = desk.another()
    refused(await plain.ask("changes.start_workspace", {"change_id": change.id}), UNPROCESSABLE, "modules")
    no_folder = desk.another(modules=lambda tenant, project_id: desk.roots.context(tenant, project_id))
    refused(await no_folder.ask("changes.start_workspace", {"change_id": change.id}), UNPROCESSABLE, "workspaces")
    assert not desk.workspaces.exists()
    # Without a file, or without modules, it is a state like the others.
    assert expect(await desk.move(on_a_type, "WorkspaceRunning")).status == "WorkspaceRunning"
    assert expect(await plain.move(change, "WorkspaceRunning")).status == "WorkspaceRunning"
    expect(await desk.start(change))
    assert desk.copy(change).read_text() == FIRST


@scenario
async def test_a_module_that_has_moved_on_is_told(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    expect(await desk.merge(await desk.change(project, edit(TEXT, replaced(TEXT, 19, "moved on")))))

    refused(await desk.workspace(change), CONFLICT, "main.py", "stop it and start it anew")

    expect(await desk.stop(change))
    expect(await desk.start(change))
    assert expect(await desk.workspace(change)).diff.count("\n+") == 2


def stop_before_copying(desk: Shop, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have somebody stop the workspace just when its copy is about to be made."""
    create = WorkingCopy.create
    loop = asyncio.get_running_loop() if isinstance(desk.world, AsyncWorld) else None

    def create_late(*arguments: Any) -> WorkingCopy:
        monkeypatch.undo()
        stopping = desk.stop(change)
        expect(drive(stopping) if loop is None else asyncio.run_coroutine_threadsafe(stopping, loop).result())
        return create(*arguments)

    monkeypatch.setattr(WorkingCopy, "create", create_late)


@scenario
async def test_no_copy_is_left_by_a_start_that_is_slower_than_the_stop(
    desk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, change = await implementing(desk, FIRST)
    stop_before_copying(desk, change, monkeypatch)

    expect(await desk.start(change))

    assert await desk.status(change) == "Implementing"
    assert not desk.copy(change).exists()
    expect(await desk.start(change))
    assert desk.copy(change).read_text() == FIRST


@scenario
async def test_no_copy_is_left_by_a_look_that_is_slower_than_the_stop(
    desk: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    shutil.rmtree(desk.workspaces)
    stop_before_copying(desk, change, monkeypatch)

    refused(await desk.workspace(change), CONFLICT, "stopped meanwhile")

    assert not desk.copy(change).exists()
    (mark,) = desk.copy(change).parents[2].iterdir()
    mark.write_bytes(b"")
    expect(await desk.start(change))
    assert expect(await desk.workspace(change)).ops[0].fits


@scenario
async def test_of_marks_of_stopped_workspaces_only_new_ones_are_kept(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)
    other = await desk.change(project, edit(TEXT, FIRST))
    expect(await desk.move(other, "Implementing", "WorkspaceRunning"))
    expect(await desk.start(change))
    expect(await desk.stop(change))
    tenants = desk.copy(change).parents[2]
    (mark,) = tenants.glob(f".{change.id}.*")
    os.utime(mark, (0, 0))

    expect(await desk.stop(other))

    assert [each.name for each in tenants.iterdir()] == [f".{other.id}.closed"]


@scenario
async def test_a_start_that_has_not_committed_has_no_copy_to_look_at(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    start, look = (f"changes.{name}" for name in ("start_workspace", "workspace"))

    came_of_it = await desk.run((start, {"change_id": change.id}), (look, {"change_id": change.id}))

    assert came_of_it == ["succeeded", "conflict"]
    assert expect(await desk.workspace(change)).status == "running"
    expect(await desk.stop(change))
    await desk.run((start, {"change_id": change.id}), (look, {"change_id": change.id}), fails=True)
    assert not desk.copy(change).exists()


@pytest.mark.parametrize("name", ["base.json", "ops.json"])
@scenario
async def test_a_copy_that_is_damaged_is_told(desk: Shop, name: str) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    (desk.copy(change).parents[1] / name).write_bytes(b"")

    refused(await desk.workspace(change), CONFLICT, "damaged", "start it anew")

    expect(await desk.stop(change))
    expect(await desk.start(change))
    assert expect(await desk.workspace(change)).ops[0].fits


@scenario
async def test_a_full_disk_is_no_fault_of_the_change(desk: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        refused(await desk.workspace(change), ErrorCode.UNAVAILABLE, "No space left")
        expect(await desk.stop(change))

    assert not list(desk.copy(change).parents[2].iterdir())


@scenario
async def test_tenants_do_not_see_each_others_workspaces(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    other = desk.world.other_tenant

    for name in ("start_workspace", "stop_workspace", "workspace"):
        refused(await desk.ask(f"changes.{name}", {"change_id": change.id}, tenant=other), NOT_FOUND, change.id)

    with pytest.raises(ActionError, match="no working copy"):
        workspace_module(desk.workspaces, other, change.id)
    assert [folder.name for folder in desk.workspaces.iterdir()] == [str(desk.world.tenant.id)]
    assert expect(await desk.workspace(change)).status == "running"


@scenario
async def test_no_id_leads_out_of_the_workspaces_of_a_tenant(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    own, other = desk.world.tenant, desk.world.other_tenant
    absolute = str(desk.workspaces / str(own.id) / change.id)

    for id in (f"../{own.id}/{change.id}", absolute, f"./{change.id}", "..", "", "a\0b"):
        with pytest.raises(ActionError) as caught:
            workspace_module(desk.workspaces, other, id)
        assert caught.value.code is NOT_FOUND


@scenario
async def test_what_a_crash_has_left_of_a_stopped_workspace_is_removed_by_stopping_again(desk: Shop) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    folder = desk.copy(change).parent.parent
    shutil.copytree(folder, folder.with_name("kept by the crash"))
    expect(await desk.stop(change))
    folder.with_name("kept by the crash").rename(folder)

    stopped = expect(await desk.stop(change))

    assert stopped.status == "stopped"
    assert not folder.exists()


@scenario
async def test_a_link_out_of_the_copy_is_not_followed(desk: Shop, tmp_path: Path) -> None:
    _, change = await implementing(desk, FIRST)
    expect(await desk.start(change))
    secret = tmp_path / "secret.py"
    secret.write_text("secret\n")
    desk.copy(change).unlink()
    desk.copy(change).symlink_to(secret)

    view = expect(await desk.workspace(change))

    assert view.left_alone == ("main.py",)
    assert "+secret\n" not in view.diff
    assert secret.read_text() == "secret\n"


@scenario
async def test_authors_start_and_stop_and_readers_look(desk: Shop) -> None:
    project, change = await implementing(desk, FIRST)
    governed = desk.another(
        permissions=ChangeControlPermissions(), modules=desk.settings[0], workspaces=desk.settings[1]
    )
    about = {"change_id": change.id}
    author = Actor.ai("bot", permissions=["changes.author"])
    reader = Actor.human("rea", permissions=["changes.read"])

    refused(await governed.ask("changes.start_workspace", about, by=reader), ErrorCode.FORBIDDEN)
    expect(await governed.ask("changes.start_workspace", about, by=author))
    refused(await governed.ask("changes.workspace", about, by=author), ErrorCode.FORBIDDEN)
    assert expect(await governed.ask("changes.workspace", about, by=reader)).status == "running"
    expect(await governed.ask("changes.stop_workspace", about, by=author))
    assert desk.text(project) == TEXT
