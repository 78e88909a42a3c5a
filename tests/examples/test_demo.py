"""The demo tells its whole story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def told_in(environment: dict[str, str]) -> str:
    """What the demo prints, without a terminal, in this environment."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_demo_shows_each_promise_kept(columns: str) -> None:
    story = told_in({"COLUMNS": columns, "PYTHONIOENCODING": "utf-8"})
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
        assert told in story
    assert all(len(line) <= int(columns) for line in story.splitlines())


def test_the_demo_is_told_where_only_ascii_can_be_written() -> None:
    story = told_in({"PYTHONIOENCODING": "ascii"})
    assert "? forbidden" in story
    assert story.isascii()
