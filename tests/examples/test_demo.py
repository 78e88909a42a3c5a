"""The demo tells its whole story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_demo_shows_each_promise_kept(columns: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "examples.demo"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": columns, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    for told in (
        "the same answer, byte for byte: True; refunded in all: 5000 cents",
        "✘ idempotency_mismatch",
        "✘ approval_required",
        "✘ forbidden",
        "✘ hook_failed",
        "✘ invalid_input",
        "✘ handler_error",
        "✘ not_found",
        "the traceback went to the log (ConnectionError",
        "approved by human:maria",
        "payments.refunded",
    ):
        assert told in done.stdout
    assert all(len(line) <= int(columns) for line in done.stdout.splitlines())
