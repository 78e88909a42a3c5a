"""Fixtures of the console's tests."""

from __future__ import annotations

import pytest

from tests.console.till import Till


@pytest.fixture
def till() -> Till:
    return Till()
