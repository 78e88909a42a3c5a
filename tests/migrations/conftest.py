"""Fixtures of the tests of migrations."""

from __future__ import annotations

import pytest

from tests import sqlite


@pytest.fixture(autouse=True)
def created_sqlite_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Create each SQLite file, and copy none."""
    monkeypatch.setattr(sqlite, "copies", False)
