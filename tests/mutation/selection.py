"""A pytest plugin: of the tests that a conformance suite brings, those of the suites in MUTATION_SUITES are left."""

from __future__ import annotations

import os
from typing import Any

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    suites = os.environ.get("MUTATION_SUITES", "").split()
    if not suites:
        return
    wanted: list[Any] = []
    others: list[Any] = []
    for item in items:
        owner = getattr(item, "function", item).__qualname__.partition(".")[0]
        (others if owner.endswith("Conformance") and owner not in suites else wanted).append(item)
    items[:] = wanted
    config.hook.pytest_deselected(items=others)
