"""Executions that an executor has taken without knowing: the answer of the database was lost."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from actionengine.durable.client import DurableClient
from actionengine.durable.host import DurableFunction, DurableHost


def test_what_was_taken_and_never_begun_is_put_back(tmp_path: Path) -> None:
    file, done = tmp_path / "durable.sqlite", tmp_path / "done"

    def work(path: str) -> str:
        Path(path).write_text("done")
        return "done"

    host = DurableHost(file, [DurableFunction("work", work, "mine")], lease=0.5, poll_interval=0.05)
    with host:
        client = DurableClient(file)
        client.enqueue("work", str(done), queue="nobodys", id="w")
        with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            connection.execute(
                "UPDATE workflow_status SET status = 'PENDING', executor_id = ?, queue_name = 'mine'"
                " WHERE workflow_uuid = 'w'",
                (host.executor_id,),
            )
        until = time.monotonic() + 60
        while not done.exists():
            assert time.monotonic() < until, client.find("w")
            time.sleep(0.05)
        client.close()
