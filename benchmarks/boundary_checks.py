"""The cost of the execution boundary: a request checked against its profile, a path resolved in its module, and the
files that a command may reach."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel

from actionengine import Tenant
from actionengine.boundary.boundary import Boundary
from actionengine.boundary.capabilities import READ_ONLY
from actionengine.boundary.commands.file_access import FileAccess, file_isolation
from actionengine.boundary.commands.processes import run_process
from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.paths import ModulePath
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from benchmarks.report import Aim, Row
from benchmarks.timing import Contender, take_turns

PATH = "src/app/main.py"


class Reading(BaseModel):
    path: ModulePath


def run(seconds: float) -> list[Row]:
    """A request against validating its input alone; a file read through the module against a bare `open`; a command
    that is kept to its module's files against one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PATH
        file.parent.mkdir(parents=True)
        file.write_text("print('hello')\n")
        rows = [_request(Path(folder), seconds / 3), _file(Path(folder), seconds / 3)]
        return [*rows, _command(Path(folder), seconds / 3)]


def _request(root: Path, seconds: float) -> Row:
    tenant = Tenant(uuid4(), "acme")
    read = create_module_action(
        name="read",
        description="Read a file",
        handler=lambda data, work: None,
        validation=Reading,
        capabilities=["fs:read"],
    )
    boundary = Boundary(READ_ONLY, [read])
    module = ModuleContext(id="app", root=root, tenant=tenant)
    request = ExecutionRequest(
        tenant=tenant, module=module, action="read", input={"path": PATH}, capabilities=read.capabilities
    )
    times = take_turns(
        (
            Contender("boundary", lambda: lambda: boundary.admit(request)),
            Contender("input", lambda: lambda: Reading.model_validate({"path": PATH})),
        ),
        seconds,
    )
    return Row(
        "boundary_checks_request",
        "a request, checked at the boundary",
        "Pydantic validating its input",
        times["boundary"],
        times["input"],
        Aim("≥ 10,000 a second", lambda row: row.ours.median <= 1e-4),
    )


def _file(root: Path, seconds: float) -> Row:
    with ModuleFiles(root) as files:
        times = take_turns(
            (
                Contender("module", lambda: lambda: files.read(PATH)),
                Contender("bare", lambda: lambda: _read(os.path.join(root, PATH))),
            ),
            seconds,
        )
    return Row(
        "boundary_checks_file",
        f"reading {PATH} through its module",
        "open and read",
        times["module"],
        times["bare"],
        Aim("≥ 10,000 a second", lambda row: row.ours.median <= 1e-4),
    )


def _command(root: Path, seconds: float) -> Row:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        access = FileAccess(descriptor, writable=True)
        times = take_turns(
            (
                Contender("bounded", lambda: lambda: _run(descriptor, access)),
                Contender("unbounded", lambda: lambda: _run(descriptor, None)),
            ),
            seconds,
        )
    finally:
        os.close(descriptor)
    return Row(
        "boundary_checks_command",
        f"`true`, kept to its module's files ({file_isolation()})",
        "the same, not kept to them",
        times["bounded"],
        times["unbounded"],
        Aim("≤ 5 ms more", lambda row: row.more <= 5e-3),
    )


def _run(folder: int, access: FileAccess | None) -> None:
    run_process(("true",), folder=folder, timeout=60.0, files=access)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
