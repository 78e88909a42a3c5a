"""`actionengine.testing` works as far as it can without Hypothesis or pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import actionengine.testing
from actionengine.testing import StorageConformance

BLOCK = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import actionengine.testing
{body}
"""

PARTS = ["TransactionConformance", "IdempotencyConformance", "OutboxConformance", "RolesConformance", "Conformance"]


def without(blocked: list[str], body: str) -> str:
    program = BLOCK.format(blocked=blocked, body=body)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_backends_and_most_parts_need_no_hypothesis() -> None:
    found = without(
        ["hypothesis"],
        f"from actionengine.testing import Backend, SyncBackend, AsyncBackend, run_in_mode, {', '.join(PARTS)}\n"
        f"from actionengine import InMemoryStorage\n"
        f"backend = SyncBackend(InMemoryStorage())\n"
        f"print(backend.mode)",
    )
    assert found == "sync"


@pytest.mark.parametrize(
    ("blocked", "name"),
    [("hypothesis", "StorageConformance"), ("hypothesis", "RecordsConformance"), ("pytest", "Conformance")],
)
def test_a_part_names_the_package_that_it_needs(blocked: str, name: str) -> None:
    found = without(
        [blocked],
        f"try:\n    from actionengine.testing import {name}\nexcept ImportError as error:\n    print(error)",
    )
    assert found == f"{name} needs {blocked}: pip install 'actionengine[testing]'"


def test_backends_need_no_pytest() -> None:
    assert without(["pytest", "hypothesis"], "print(actionengine.testing.SyncBackend.mode)") == "sync"


def test_every_name_is_there_and_every_part_is_in_the_suite() -> None:
    folder = Path(actionengine.testing.__file__).parent
    names = [name for name in dir(actionengine.testing) if not name.startswith("_")]
    for name in names:
        assert getattr(actionengine.testing, name).__name__ == name
    for part in actionengine.testing.PARTS:
        assert (folder / f"{part}.py").is_file()
    parts = {getattr(actionengine.testing, name) for name in names if name.endswith("ormance")}
    assert parts <= set(StorageConformance.__mro__)
