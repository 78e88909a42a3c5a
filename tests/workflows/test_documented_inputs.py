"""The page about workflows has a line for each action, with each key of its input."""

from __future__ import annotations

import re
from pathlib import Path

from actionengine.workflows import workflow_services

PAGE = Path(__file__).parents[2] / "docs" / "workflows.md"
PAGE_KEYS = ("after", "limit")


def test_each_action_is_documented_with_its_inputs() -> None:
    text = PAGE.read_text().partition("## The actions")[2].partition("\n## ")[0]
    lines = {}
    for names, takes in re.findall(r"(?m)^\| (`[^|]*`) \| ([^|]*) \|", text):
        service = names.strip("`").partition(".")[0]
        for name in re.findall(r"`([\w.]+)`", names):
            lines[name if "." in name else f"{service}.{name}"] = takes

    actions = {
        f"{service.name}.{action.name}": action.validation
        for service in workflow_services(open=True)
        if service.name != "workflow_steps"
        for action in service.actions
    }
    assert lines.keys() == actions.keys()
    for name, model in actions.items():
        said = {key: mark == "?" for key, mark in re.findall(r"`(\w+)(\??)`", lines[name].replace("`after` is", ""))}
        if "a page" in lines[name]:
            said |= dict.fromkeys(PAGE_KEYS, True)
        assert said == {key: not field.is_required() for key, field in model.model_fields.items()}, name
