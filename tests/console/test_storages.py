"""The console on each storage, under an event loop and under threads, beside a host that uses the storage itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import Client, WSGITransport
from starlette.applications import Starlette
from starlette.routing import Mount

from actionengine.console import as_wsgi, create_console
from actionengine.storage.sql.storage import SQLStorage
from tests.backends import BACKENDS, open_storage, requested_database
from tests.console.till import Till, by, forms_of


def client_of(till: Till, server: str) -> Any:
    console = create_console(till.engine, till.identify)
    if server == "asgi":

        @asynccontextmanager
        async def close(app: Starlette) -> AsyncIterator[None]:
            yield
            if isinstance(till.storage, SQLStorage):
                await till.storage.aclose()

        return Till.client_of(Starlette(routes=[Mount("", console)], lifespan=close))
    return Client(transport=WSGITransport(app=as_wsgi(console)), base_url="http://testserver")


@pytest.mark.parametrize("server", ["asgi", "wsgi"])
@pytest.mark.parametrize("kind", BACKENDS)
def test_an_approval_is_decided(kind: str, server: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with open_storage(kind, tmp_path, requested_database(request, kind)) as storage:
        till = Till(storage)
        with client_of(till, server) as client:
            id, other = till.ask(reason="ticket"), till.ask(tenant="globex", reason="zebra")
            page = client.get("/approvals", headers=by("boss")).text
            assert ("ticket" in page, "zebra" in page) == (True, False)
            assert client.get(f"/approvals/{other}", headers=by("boss")).status_code == 404
            form = forms_of(client.get(f"/approvals/{id}", headers=by("boss")).text)["approvals.approve"]
            shown = client.post(form.action, data={**form, "preview": "1"}, headers=by("boss"))
            assert "What approving would write" in shown.text
            bound = forms_of(shown.text)["approvals.approve"]
            for _ in range(2):
                answer = client.post(bound.action, data=dict(bound), headers=by("boss"))
                assert (answer.status_code, answer.headers["location"]) == (303, f"/approvals/{id}")
            assert "Approved: the action was executed." in client.get(f"/approvals/{id}", headers=by("boss")).text
            assert till.paid() == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_of_many_windows_one_decides(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with open_storage(kind, tmp_path, requested_database(request, kind)) as storage:
        assert isinstance(storage, SQLStorage)
        till = Till(storage)
        with client_of(till, "wsgi") as client, ThreadPoolExecutor(4) as threads:
            id = till.ask()
            forms = [
                forms_of(client.get(f"/approvals/{id}", headers=by(actor)).text)[f"approvals.{decision}"]
                for actor, decision in (("boss", "approve"), ("deputy", "reject"), ("boss", "reject"))
            ]
            actors = ("boss", "deputy", "boss")
            answers = list(
                threads.map(
                    lambda form, actor: client.post(form.action, data=dict(form), headers=by(actor)), forms, actors
                )
            )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [303, 409, 409]
        lost = [answer.text for answer in answers if answer.status_code == 409]
        assert all("human:" in text and " by</dt>" in text for text in lost)
