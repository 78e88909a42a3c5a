"""The event loop of a console under WSGI: one for a process, and it ends with the storage."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from httpx import Client, WSGITransport
from starlette.applications import Starlette
from starlette.routing import Mount

from actionengine import ConfigurationError, SQLiteStorage
from actionengine.console import as_wsgi, create_console
from tests.console.till import Till, by


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "actionengine-console"]


def test_closing_the_storage_ends_the_loop_and_its_connections(tmp_path: Path) -> None:
    before, others = loops(), set(threading.enumerate())
    with SQLiteStorage(tmp_path / "till.db") as storage:
        till = Till(storage)
        console: Any = as_wsgi(create_console(till.engine, till.identify))
        assert loops() == before
        with Client(transport=WSGITransport(app=console), base_url="http://testserver") as client:
            for _ in range(3):
                assert client.get("/approvals", headers=by("boss")).status_code == 200
            assert len(loops()) == len(before) + 1
    assert loops() == before
    assert [each.name for each in set(threading.enumerate()) - others if not each.daemon] == []


def test_an_application_around_a_console_needs_its_engine(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "till.db") as storage:
        till = Till(storage)
        around = Starlette(routes=[Mount("/console", create_console(till.engine, till.identify))])
        with pytest.raises(ConfigurationError, match=r"as_wsgi\(application, engine\)"):
            as_wsgi(around)
        wsgi: Any = as_wsgi(around, till.engine)
        with Client(transport=WSGITransport(app=wsgi), base_url="http://testserver") as client:
            assert client.get("/console/approvals", headers=by("boss")).status_code == 200
