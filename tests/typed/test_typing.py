"""The typing examples give the errors that they announce, and no others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).with_name("declarations.py")
ROOT = Path(__file__).parents[2]


def test_a_type_checker_reports_exactly_the_misuses() -> None:
    announced = {
        (number, match.group(1))
        for number, line in enumerate(EXAMPLES.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := re.search(r"# E: (\S+)$", line))
    }
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty", str(EXAMPLES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    reported = {
        (int(match.group(1)), match.group(2))
        for match in re.finditer(r"declarations\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    }
    assert len(announced) >= 10
    assert reported == announced, done.stdout + done.stderr
