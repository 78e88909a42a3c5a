"""The benchmarks run and report. How fast anything is, is never asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLS = {"governed_peers"}
ROWS = {
    "full_pipeline": ["full_pipeline", "full_pipeline_built"],
    "bare_pipeline": ["bare_pipeline"],
    "routing": ["routing_get_action", "routing_execute_action"],
    "import_time": ["import_time", "import_time_used"],
    "boot": ["boot_one_model", "boot_many_models"],
    "catalogue": ["catalogue_static", "catalogue_rbac", "catalogue_rbac_chain"],
    "governed_postgres": [
        f"governed_postgres_{backend}_{workers}_{write}"
        for backend in ("sync", "async")
        for workers in (1, 4, 16)
        for write in ("records", "core")
    ],
    "log_growth": ["log_growth_action", "log_growth_subject", "log_growth_actor", "log_growth_newest"],
    "log_search": [
        f"log_search_{name}"
        for name in (
            *("request", "parent", "approval", "key", "rare_word", "some_word", "frequent_word", "frequent_words"),
            *("rare_among_frequent", "word_and_subject", "word_and_actor", "word_and_no_outcome", "words_and_no_match"),
            *("no_match", "whole_page", "tree"),
        )
    ],
    "console_log_search": [
        f"console_log_search_{name}"
        for name in ("newest", "words", "some_word", "subject", "request", "many_filters", "no_match")
    ],
    "growth": [],
    "idle_memory": ["idle_memory", "idle_memory_postgres", "idle_memory_connection"],
    "relay_drain": ["relay_drain_many_subjects", "relay_drain_one_subject"],
    "relay_relays": [
        f"relay_relays_{where}_{publisher}_{relays}"
        for where in ("threads", "processes")
        for publisher in ("idle", "slow")
        for relays in (2, 4)
    ],
    "relay_latency": [f"relay_latency_{when}_{number}" for number in ("median", "p99") for when in ("idle", "load")],
    "event_cost": [
        f"event_cost_{what}_{workers}"
        for workers in (1, 4)
        for what in ("2_events", "5_events", "relay_asleep", "relay_busy")
    ],
    "change_merge": [
        "change_merge_statements",
        "change_merge_100_ops",
        "change_merge_100_types",
        "change_merge_parallel",
    ],
    "document_guard": ["document_guard_typed", "document_guard_untyped"],
    "workflow_steps": ["workflow_step_writing", "workflow_step_empty"],
    "boundary_checks": ["boundary_checks_request", "boundary_checks_file", "boundary_checks_command"],
    "preview_cost": [
        f"preview_cost_{what}_{name}"
        for what in ("memory_documents", "postgres_documents", "postgres_statements")
        for name in ("preview", "plan")
    ],
    "budget_cost": [
        f"budget_cost_{budgets}_{key}_{workers}"
        for workers in (1, 4)
        for key in ("keyed", "unkeyed")
        for budgets in (1, 3)
    ],
    "runner_queue": ["runner_queue_2", "runner_queue_4"],
    "tool_calls": [
        f"tool_calls_{call}_{dialect}" for dialect in ("mcp", "openai_strict") for call in ("write", "key", "read")
    ],
}
"""The rows of each benchmark; those of `growth` have its operations in their names."""

QUICK = ("full_pipeline", "boundary_checks")
"""Those that take seconds; the others run with the campaigns."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--seconds", "0.01", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# The benchmarks are imported where a test needs them: each worker collects the tests, and one runs them.


def growth_rows() -> list[str]:
    from benchmarks.growth import operations

    labels = ("SQLite", "PostgreSQL, custom plans", "PostgreSQL, generic plans")
    return [f"growth {label}: {operation.name}" for label in labels for operation in operations()]


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(name for name in ROWS if name not in QUICK), marks=pytest.mark.soak)]
)
def test_json_has_every_row_with_finite_positive_numbers(names: tuple[str, ...]) -> None:
    done = run("--json", "--log-rows", "1000", "--merge-ops", "100", "--only", *names)

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == [row for name in names for row in ROWS[name] or growth_rows()]
    for row in rows:
        numbers = (row["ratio"], *row["ours"].values(), *row["peer"].values())
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
        assert math.isfinite(row["more"])
        assert row["unit"] in {"s", "KB", "statements", "VM steps", "buffers"}
        assert (row["met"] is None) == (row["aim"] is None)


def test_each_benchmark_is_among_these() -> None:
    from benchmarks.__main__ import BENCHMARKS

    assert ROWS.keys() | INSTALLS == BENCHMARKS.keys()


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run benchmarks in this process."""
    from benchmarks.__main__ import main

    monkeypatch.setattr(sys, "argv", ["benchmarks", "--seconds", "0.01", *arguments])
    main()


def test_only_the_named_benchmark_runs_with_its_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch, "--only", "bare_pipeline")

    printed = capsys.readouterr().out
    for heading in ("what", "against", "ours", "peer", "ratio", "aim", "met?"):
        assert heading in printed


def test_an_unknown_benchmark_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_here(monkeypatch, "--only", "nothing")

    assert ended.value.code == 2
    assert "full_pipeline" in capsys.readouterr().err


def test_installed_peers_are_pinned_and_have_a_program() -> None:
    from benchmarks import governed_peers

    pins = dict(pin.split("==") for pin in governed_peers.pins())

    assert {"airlock-sdk", "dbos"} <= pins.keys()
    for peer in governed_peers.PEERS:
        assert f"def {peer}(" in governed_peers.PROGRAM.read_text()
