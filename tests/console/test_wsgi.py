"""The event loop of a console under WSGI: one for a process, and it ends with the storage."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from httpx import Client, WSGITransport
from starlette.applications import Starlette
from starlette.routing import Mount

from actionengine import ConfigurationError, SQLiteStorage
from actionengine.console import as_wsgi, create_console
from tests.console.live_server import SOON
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


class Broken(io.BytesIO):
    """The body of a client that has gone, on servers that raise an error then."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the client has gone")


FORM = {
    "PATH_INFO": "/do/approvals/approve",
    "REQUEST_METHOD": "POST",
    "CONTENT_TYPE": "application/x-www-form-urlencoded",
}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({**FORM, "CONTENT_LENGTH": "100", "wsgi.input": io.BytesIO(b"key=k")}, 400),
        ({**FORM, "CONTENT_LENGTH": "100", "wsgi.input": Broken()}, 400),
        ({**FORM, "CONTENT_LENGTH": "-5", "wsgi.input": io.BytesIO(b"key=k")}, 400),
        ({**FORM, "CONTENT_LENGTH": "odd", "wsgi.input": io.BytesIO(b"key=k")}, 400),
        ({**FORM, "CONTENT_LENGTH": "9" * 5000, "wsgi.input": io.BytesIO(b"key=k")}, 400),
        ({"SERVER_PORT": "odd"}, 200),
        ({"SERVER_PORT": ""}, 200),
        ({"REMOTE_ADDR": "::1", "REMOTE_PORT": "odd"}, 200),
        ({"REMOTE_ADDR": "::1", "REMOTE_PORT": 4711}, 200),
        ({"SCRIPT_NAME": "/\xff"}, 200),
        ({"PATH_INFO": "/\xff"}, 404),
    ],
)
def test_an_odd_request_gets_an_answer(given: dict[str, Any], status: int) -> None:
    till = Till()
    console = as_wsgi(create_console(till.engine, till.identify))
    environ: dict[str, Any] = {"PATH_INFO": "/approvals", "HTTP_X_USER": "acme/boss", **given}
    setup_testing_defaults(environ)
    answers: list[str] = []

    def serve() -> None:
        b"".join(console(environ, lambda status, headers, error=None: answers.append(status)))

    # A request that never ends would keep its thread.
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    thread.join(SOON)
    assert [answer[:3] for answer in answers] == [str(status)]
    assert not thread.is_alive()
    assert till.log(action="approvals.approve") == []
