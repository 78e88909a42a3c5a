"""The folders of modules."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from actionengine import Tenant
from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.idempotency.run_once import run_once
from actionengine.boundary.roots import ModuleRoots
from actionengine.errors import ErrorCode
from tests.boundary.modules import ACME, admit, code_of, perform

OTHER = Tenant(UUID(int=2), "other")


def test_a_module_is_its_tenants(tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path)

    made = roots.create(ACME, "site")

    assert made.root == tmp_path / str(ACME.id) / "site"
    assert made.root.is_dir()
    assert made == roots.context(ACME, "site") == roots.create(ACME, "site")
    with pytest.raises(MissingModuleError) as caught:
        roots.context(OTHER, "site")
    assert caught.value.details["module"] == "site"


@pytest.mark.parametrize(
    "id", ["", ".", "..", "../site", "a/b", "/etc", ".site.actionengine", "-rf", "a\0", "ä", "a\n"]
)
def test_an_id_that_is_no_plain_name_is_refused(tmp_path: Path, id: str) -> None:
    roots = ModuleRoots(tmp_path)

    with pytest.raises(MissingModuleError):
        roots.context(ACME, id)
    assert code_of(lambda: roots.create(ACME, id)) is ErrorCode.INVALID_INPUT
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / str(ACME.id)).write_text("a file")

    assert code_of(lambda: ModuleRoots(tmp_path).create(ACME, "site")) is ErrorCode.UNAVAILABLE


def test_a_module_that_was_removed_begins_anew(tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path)
    root = roots.create(ACME, "site").root
    work = admit(root, "write", {"path": "a", "text": "a"}, idempotency_key="one")
    run_once(work, perform)

    roots.remove(ACME, "site")
    roots.create(ACME, "site")

    assert [path.name for path in root.parent.iterdir()] == ["site"]
    assert not run_once(work, perform).replayed
    assert (root / "a").read_text() == "a"


def test_of_a_module_that_is_a_link_the_link_is_removed(tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path)
    others = roots.create(OTHER, "site")
    run_once(admit(others.root, "write", {"path": "page", "text": "theirs"}, idempotency_key="one"), perform)
    beside = sorted(path.name for path in others.root.parent.iterdir())
    (tmp_path / str(ACME.id)).mkdir()
    (tmp_path / str(ACME.id) / "site").symlink_to(others.root)

    roots.remove(ACME, "site")

    assert list((tmp_path / str(ACME.id)).iterdir()) == []
    assert (others.root / "page").read_text() == "theirs"
    assert sorted(path.name for path in others.root.parent.iterdir()) == beside


def test_a_link_in_place_of_a_journal_is_removed_not_its_target(tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path / "roots")
    module = roots.create(ACME, "site")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True, mode=0o755)
    elsewhere.chmod(0o755)
    module.root.with_name(".site.actionengine").symlink_to(elsewhere)

    roots.remove(ACME, "site")

    assert list(module.root.parent.iterdir()) == []
    assert [path.stat().st_mode & 0o777 for path in (elsewhere, elsewhere / "folder")] == [0o755, 0o755]
