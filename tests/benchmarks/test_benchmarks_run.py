"""The benchmarks run and report. How fast anything is, is never asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    "full_pipeline",
    "full_pipeline_built",
    "bare_pipeline",
    "routing_get_action",
    "routing_execute_action",
    "import_time",
    "import_time_used",
    "boot_one_model",
    "boot_many_models",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--seconds", "0.01", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_json_has_every_row_with_finite_positive_numbers() -> None:
    done = run("--json")

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == ROWS
    for row in rows:
        numbers = (row["ratio"], *row["ours"].values(), *row["peer"].values())
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert math.isfinite(row["more"])
        assert (row["met"] is None) == (row["aim"] is None)


def test_only_the_named_benchmark_runs_and_the_table_says_what_against_what() -> None:
    done = run("--only", "bare_pipeline")

    assert done.returncode == 0, done.stderr
    for heading in ("what", "against", "ours", "peer", "ratio", "aim", "met?"):
        assert heading in done.stdout


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    done = run("--only", "nothing")

    assert done.returncode == 2
    assert "full_pipeline" in done.stderr
