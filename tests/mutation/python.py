"""Python, broken by mutmut: it makes the mutants of a module, finds the tests that reach each, and runs them."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from tests.mutation.parts import Mutant, Part
from tests.mutation.workbench import OPTIONS

_SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
also_copy = ["examples", "docs"]
only_mutate = [{source}]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = {options}
timeout_constant = 4.0
use_git_change_detection = false
"""


def python_mutants(root: Path, part: Part) -> Iterator[Mutant]:
    """The mutants of a module of Python."""
    file = root / part.source
    whole, settings = file.read_text(), (root / "pyproject.toml").read_text()
    file.write_text(_undecorated(whole))
    options = [*OPTIONS[2:], *(["-k", f"not ({part.without})"] if part.without else [])]
    names = {"source": json.dumps(part.source), "tests": json.dumps(part.tests), "options": json.dumps(options)}
    (root / "pyproject.toml").write_text(settings + _SETTINGS.format_map(names))
    module = part.source.removeprefix("src/").removesuffix(".py").replace("/", ".")
    wanted = [f"{module}.x*{name}__mutmut_*" for name in part.functions]
    environment = {**os.environ, "MUTATION_SUITES": " ".join(part.suites)}
    try:
        done = subprocess.run(
            [Path(sys.executable).with_name("mutmut"), "run", "--max-children", "2", *wanted],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        results = root / "mutants" / f"{part.source}.meta"
        if done.returncode or not results.exists():
            raise SystemExit(f"{part.name}: mutmut failed\n{done.stdout[-3000:]}")
        codes: dict[str, int | None] = json.loads(results.read_text())["exit_code_by_key"]
        with contextlib.chdir(root):
            for name, code in codes.items():
                if not wanted or any(fnmatch(name, pattern) for pattern in wanted):
                    # 33: no test reaches it.
                    yield _mutant(name, part.source, killed=code not in (0, 5, 33, None))
    finally:
        file.write_text(whole)
        (root / "pyproject.toml").write_text(settings)


def _mutant(name: str, source: str, *, killed: bool) -> Mutant:
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    function = name.rpartition(".")[2].partition("__mutmut_")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    if killed:
        return Mutant(function, "", True)
    lines = get_diff_for_mutant(name, path=source).splitlines()[2:]
    removed = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    added = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return Mutant(function, f"{removed} -> {added}", False)


def _undecorated(source: str) -> str:
    """The same module with `@native` as a call below each function: mutmut leaves decorated functions alone."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body[::-1]:
        if isinstance(node, ast.AsyncFunctionDef) and [ast.unparse(item) for item in node.decorator_list] == ["native"]:
            lines.insert(node.end_lineno or 0, f"{node.name} = native({node.name})\n")
            del lines[node.decorator_list[0].lineno - 1]
    return "".join(lines)
