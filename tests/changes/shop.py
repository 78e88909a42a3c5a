"""A harness of change control whose projects have files, each in a module below a folder of the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actionengine import Tenant
from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.boundary.roots import ModuleRoots
from actionengine.changes import project_modules
from actionengine.testing import Backend
from tests.changes.harness import Harness, Op, ReadTables

TEXT = "".join(f"line {number}\n" for number in range(1, 21))
"""Twenty lines."""


class Shop(Harness):
    """A harness with the modules of its projects."""

    def __init__(self, backend: Backend, read_tables: ReadTables, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.roots = ModuleRoots(folder / "modules")
        self.workspaces = folder / "workspaces"
        self.settings = project_modules(self.roots), self.workspaces
        modules, workspaces = self.settings
        super().__init__(backend, read_tables, modules=modules, workspaces=workspaces, **options)

    async def files(self, *, require_review: bool = False, tenant: Tenant | None = None, **texts: Any) -> Any:
        """Create a project with a module that has these files: `main="…"` is `main.py`."""
        project = await self.project(require_review=require_review, tenant=tenant)
        root = self.roots.create(tenant or self.backend.tenant, project.id).root
        for name, text in texts.items():
            (root / f"{name}.py").write_bytes(text.encode())
        return project

    def root(self, project: Any) -> Path:
        """Return the folder of a project's module."""
        root: Path = self.roots.context(self.backend.tenant, project.id).root
        return root

    def text(self, project: Any, path: str = "main.py") -> str | None:
        """Return the text of a project's file; None if it is missing."""
        file = self.root(project) / path
        return file.read_bytes().decode() if file.exists() else None

    def copy(self, change: Any, path: str = "main.py") -> Path:
        """Return the path of a file in the working copy of a change."""
        id: str = change.id
        return self.workspaces / str(self.backend.tenant.id) / id / "tree" / path

    async def write_files(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.write_files", {"change_id": change.id}, **who)

    async def start(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.start_workspace", {"change_id": change.id}, **who)

    async def stop(self, change: Any, keep: bool = False, **who: Any) -> Any:
        return await self.ask("changes.stop_workspace", {"change_id": change.id, "keep": keep}, **who)

    async def workspace(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.workspace", {"change_id": change.id}, **who)


def edit(before: str | None, after: str | None, path: str = "main.py") -> Op:
    """Return an op that turns one text into another."""
    return "edit_file", {"file_path": path, "diff": unified_diff(before, after, path)}


def outcomes(written: Any) -> dict[str, str]:
    """Return the outcome of each file, by path."""
    return {each.path: each.outcome for each in written.files}


def replaced(text: str, line: int, new: str) -> str:
    """Return a text with line number `line` replaced."""
    lines = text.splitlines(keepends=True)
    lines[line - 1] = f"{new}\n"
    return "".join(lines)
