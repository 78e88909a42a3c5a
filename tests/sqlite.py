"""SQLite files that are copies of a migrated one: a migration takes 40 ms of CPU, a copy takes 1 ms."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

from actionengine import SQLiteStorage
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.sqlite.database import SQLiteDatabase

copies = True
"""False for tests of the migrations, which create their files."""


@contextmanager
def copied_sqlite_files(folder: Path) -> Iterator[None]:
    """Give the schema to each new file, during the block, before a storage of this process opens it."""
    template = folder / "migrated.db"
    check = SQLiteDatabase.check

    def copy_and_check(database: SQLiteDatabase, mode: Mode) -> None:
        path = Path(database.pools.name)
        if copies and path != template and not path.exists():
            if not template.exists():
                SQLiteStorage(template, protected=()).__enter__().close()
            copy = path.with_name(f"copy-{uuid4().hex}")
            # Another thread or process may be first; a folder may not be writable.
            with suppress(OSError):
                shutil.copyfile(template, copy)
                os.link(copy, path)
            copy.unlink(missing_ok=True)
        check(database, mode)

    with patch.object(SQLiteDatabase, "check", copy_and_check):
        yield
