"""`actionengine changes ...`, as an operator uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actionengine import create_engine
from actionengine.boundary import ModuleRoots
from actionengine.changes import change_control_services, project_modules
from actionengine.context import Tenant
from tests.cli.desk import Desk, golden, ids_of, is_readable

TEXT = {"type": "text"}


def draft(desk: Desk, title: str, tenant: Tenant | None = None, field: str = "price") -> str:
    """Draft a change that adds a field to a record type. Return its id."""

    def do(action: str, **payload: Any) -> Any:
        return desk.execute(action, payload, tenant=tenant).unwrap()

    project = do("projects.create", name="Jobs")
    do(
        "record_types.create",
        project_id=project.id,
        key="job",
        name="Job",
        schema={"fields": [{"name": "size", **TEXT}]},
    )
    do("record_types.activate", project_id=project.id, key="job")
    change = do("changes.create", project_id=project.id, title=title)
    do("changes.add_target", change_id=change.id, type="record_type", selector={"record_type_key": "job"})
    added = {"record_type": "job", "field": field, "definition": TEXT}
    do("changes.add_patch_op", change_id=change.id, op_type="add_field", payload=added)
    renamed = {"record_type": "job", "old_name": "size", "new_name": "width"}
    do("changes.add_patch_op", change_id=change.id, op_type="rename_field", payload=renamed)
    return str(change.id)


DIFF = """\
record type job, version 1 to 2
  ~ size is renamed to width
  + {"name": "price", "type": "text", "required": false}
"""


def test_changes_of_all_tenants_are_listed(each_desk: Desk) -> None:
    desk = each_desk
    first = draft(desk, "Jobs have a price")
    second = draft(desk, "Jobs are priced", desk.globex)

    assert ids_of(desk.json("changes", "list")) == [first, second]
    assert ids_of(desk.json("changes", "list", "--tenant", "globex")) == [second]
    assert ids_of(desk.json("changes", "list", "--status", "Merged")) == []
    assert ids_of(desk.json("changes", "list", "--after", first)) == [second]
    assert desk.run("changes", "list", "--status", "Lost").returncode == 2


def test_the_diff_is_the_same_before_and_after_the_merge(desk: Desk) -> None:
    id = draft(desk, "Jobs have a price")

    before, document = desk.run("changes", "diff", id).stdout, desk.json("changes", "diff", id)
    desk.execute("changes.merge", {"change_id": id}).unwrap()
    after, merged = desk.run("changes", "diff", id).stdout, desk.json("changes", "diff", id)

    assert before == after == DIFF
    assert document["diff"] == merged["diff"]
    assert document["tenant"] == "acme"


def test_a_change_is_shown_with_its_edits(desk: Desk) -> None:
    id = draft(desk, "Jobs \x1b[2Jhave\u202e a price")

    shown = desk.run("changes", "show", id).stdout

    assert is_readable(shown)
    assert golden(shown).startswith(
        "2026-01-31T12:00:00Z  Jobs \\x1b[2Jhave\\u202e a price  Draft  acme\n"
        "  id 00000000-0000-0000-0000-000000000000\n"
        "  project 00000000-0000-0000-0000-000000000000\n"
    )
    assert "add_field  pending" in shown
    document = desk.json("changes", "show", id)
    assert [op["op_type"] for op in document["ops"]] == ["add_field", "rename_field"]
    assert document["targets"][0]["selector"] == {"record_type_key": "job"}


def test_the_change_of_another_tenant_is_not_found(desk: Desk) -> None:
    id = draft(desk, "Jobs have a price")

    for command in ("show", "diff"):
        done = desk.run("changes", command, id, "--tenant", "globex")
        assert (done.returncode, done.stdout) == (3, "")


PATCH = """\
--- a/notes.txt
+++ b/notes.txt
@@ -1 +1 @@
-hello
+good \x1b[31mbye\u202e, and a line that is longer than any terminal: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
"""


def test_the_diff_of_a_file_is_unified_and_not_wrapped(desk: Desk, tmp_path: Path) -> None:
    services = change_control_services(modules=project_modules(ModuleRoots(tmp_path / "modules")))
    desk.engine = create_engine(services=services, storage=desk.storage)
    desk.serve(desk.engine)
    project = desk.execute("projects.create", {"name": "Notes"}).unwrap()
    folder = tmp_path / "modules" / str(desk.acme.id) / project.id
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("hello\n")
    change = desk.execute("changes.create", {"project_id": project.id, "title": "Say goodbye"}).unwrap()
    target = {"change_id": change.id, "type": "file", "selector": {"file_path": "notes.txt"}}
    desk.execute("changes.add_target", target).unwrap()
    op = {"change_id": change.id, "op_type": "edit_file", "payload": {"file_path": "notes.txt", "diff": PATCH}}
    desk.execute("changes.add_patch_op", op).unwrap()

    unknown = desk.run("changes", "diff", change.id)
    before = desk.run("changes", "diff", change.id, "--engine", "cli_host:engine", ACTIONENGINE_URL="")
    desk.execute("changes.merge", {"change_id": change.id}).unwrap()
    after = desk.run("changes", "diff", change.id)

    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "does not know the files" in unknown.stderr
    assert before.stdout == after.stdout == PATCH.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert desk.json("changes", "diff", change.id)["files"][0]["diff"] == PATCH
