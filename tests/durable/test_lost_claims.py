"""Executions that an executor has taken without knowing: the answer of the database was lost."""

from __future__ import annotations

from pathlib import Path

from actionengine.durable.client import DurableClient
from actionengine.durable.host import DurableFunction, DurableHost
from tests.durable.databases import change, eventually, lines_of, sqlite
from tests.durable.executor import append


def test_what_was_taken_and_never_begun_is_put_back(tmp_path: Path) -> None:
    durable, path = sqlite(tmp_path), tmp_path / "lines"
    client = DurableClient(durable.url)
    functions = [DurableFunction("append", append, "mine")]
    with DurableHost(durable.url, functions, lease=0.5, poll_interval=0.05, set_up=False) as host:
        client.enqueue("append", str(path), "done", queue="nobody's", id="w")
        taken = "UPDATE $workflow_status SET status = 'PENDING', executor_id = :host, queue_name = 'mine'"
        change(durable, taken, host=host.executor_id)
        assert eventually(lambda: lines_of(path) == ["done"])
    client.close()
