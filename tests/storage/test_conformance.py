"""The conformance suite in `actionengine.testing` refuses each storage that breaks a promise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.storage.broken import ALL

SUITES = """
import pytest
from actionengine.testing import Conformance
from tests.storage.broken import ALL


def suite(kind):
    test = kind.refused_by
    return type("Suite", (Conformance,), {"storage": pytest.fixture(lambda self: kind()), test.__name__: test})


globals().update({f"Test{name}": suite(kind) for name, kind in ALL.items()})
"""


class Failures:
    """A plugin that finds the test that refuses each storage, and skips the rest of that storage's tests."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._name(item.nodeid) in self.found:
            pytest.skip("refused already")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when == "call":
            self.found.setdefault(self._name(report.nodeid), report.nodeid.rpartition("::")[2])

    def _name(self, nodeid: str) -> str:
        return nodeid.split("::")[1].removeprefix("Test")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file: Path = tmp_path_factory.mktemp("suites") / "test_broken.py"
    file.write_text(SUITES)
    failures: Any = Failures()
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "benchmark", "hypothesispytest", "terminal")]
    pytest.main([str(file), f"--rootdir={file.parent}", "-c", os.devnull, *plugins], plugins=[failures])
    found: dict[str, str] = failures.found
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_storage_that_breaks_a_promise_is_refused(refusals: dict[str, str], name: str) -> None:
    assert name in refusals, ALL[name].__doc__
