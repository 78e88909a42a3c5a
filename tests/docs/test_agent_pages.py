"""The pages on agents say what is there: a configuration that a client reads, and tests that exist."""

from __future__ import annotations

import ast
import json
import re
import sys
from typing import Any

import pytest

from tests.docs.test_code_blocks import ROOT, blocks_of

GUIDE = (ROOT / "docs/tasks/give-an-agent-your-actions.md").read_text()
THREATS = (ROOT / "docs/agent-threats.md").read_text()


def test_the_shown_configuration_is_the_printed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(blocks_of(GUIDE))
    (shown,) = (json.loads(block.code) for block in blocks if block.language == "json")
    (source,) = (block.code for block in blocks if block.title == "configure.py")
    monkeypatch.setattr(sys, "executable", "/home/carla/shop/.venv/bin/python")
    namespace: dict[str, Any] = {"__file__": "/home/carla/shop/configure.py", "__name__": "configure"}
    exec(source, namespace)
    assert namespace["configuration"]("carla") == shown


def test_each_threat_names_tests_that_exist() -> None:
    source = (ROOT / "tests/examples/test_agent_threats.py").read_text()
    there = {each.name for each in ast.parse(source).body if isinstance(each, ast.FunctionDef)}
    named = set(re.findall(r"`(test_\w+)`", THREATS))
    assert named == {name for name in there if name.startswith("test_")}
    assert [path for path in re.findall(r"`(tests/[\w/.]+)`", THREATS) if not (ROOT / path).exists()] == []


def test_each_threat_says_what_holds_and_what_is_left_to_do() -> None:
    sections = THREATS.split("\n## ")[1:]
    assert len(sections) == 8
    for section in sections:
        assert "**The attack.**" in section
        assert "| what holds | shown by |" in section
        assert "\n**You** " in section
