"""What the execution boundary costs: a request checked against its profile, and a path resolved in its module."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel

from actionengine import Tenant
from actionengine.execution.boundary import Boundary
from actionengine.execution.capabilities import READ_ONLY
from actionengine.execution.declarations import create_module_action
from actionengine.execution.files import ModuleFiles
from actionengine.execution.paths import ModulePath
from actionengine.execution.request import ExecutionRequest, ModuleContext
from benchmarks.report import Aim, Row
from benchmarks.timing import Contender, take_turns

PATH = "src/app/main.py"


class Reading(BaseModel):
    path: ModulePath


def run(seconds: float) -> list[Row]:
    """A request against validating its input alone; a file read through the module against a bare `open`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PATH
        file.parent.mkdir(parents=True)
        file.write_text("print('hello')\n")
        return [_request(Path(folder), seconds / 2), _file(Path(folder), seconds / 2)]


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


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
