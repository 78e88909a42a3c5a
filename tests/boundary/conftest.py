"""Fixtures of the tests of the boundary: modules with secrets around them, and isolation methods of commands."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from actionengine.boundary.commands.processes import IsolationMethod
from actionengine.boundary.files.files import ModuleFiles
from tests.boundary.processes import alive, children, insist_on
from tests.boundary.walled import Walled


@pytest.fixture
def no_child_is_left() -> Iterator[None]:
    """Fail if the test leaves a child process. Earlier children, such as servers of other tests, may stay."""
    before = children()
    yield
    assert children() <= before


@pytest.fixture(params=["namespace", "seccomp"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> IsolationMethod:
    means: IsolationMethod = request.param
    insist_on(means, monkeypatch)
    return means


@pytest.fixture(params=["namespace", "seccomp", "none"])
def any_means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> IsolationMethod:
    """Run the test with each isolation method, and with none."""
    means: IsolationMethod = request.param
    insist_on(means, monkeypatch)
    return means


@pytest.fixture
def marker() -> Iterator[str]:
    text = f"marker-{uuid4()}"
    yield text
    for process in alive(text):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The empty folder of a module."""
    root = tmp_path / "module"
    root.mkdir()
    return root


@pytest.fixture
def walled(tmp_path: Path) -> Walled:
    return Walled(tmp_path)


@pytest.fixture
def files(walled: Walled) -> Iterator[ModuleFiles]:
    with ModuleFiles(walled.root) as opened:
        yield opened


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
