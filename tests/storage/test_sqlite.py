"""`SQLiteStorage`: the suite that every storage passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actionengine import SQLiteStorage
from actionengine.testing import StorageConformance


class TestSQLiteStorage(StorageConformance):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[SQLiteStorage]:
        with SQLiteStorage(tmp_path / "actionengine.db") as storage:
            yield storage
