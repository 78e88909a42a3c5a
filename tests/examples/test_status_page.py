"""The status page of the FastAPI host: a page without data, and the routes that it asks, as whoever signed in."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from examples.fastapi_app.status import PAGE

from tests.examples.conftest import CARLA, MARIA, TOM, FreshStorage, Host, person, serve, until

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def host(fresh_storage: FreshStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    workflows = str(tmp_path_factory.mktemp("workflows") / "workflows.db")
    with (
        fresh_storage("sqlite") as storage,
        serve("fastapi", storage, relay=True, workflows=workflows) as serving,
    ):
        yield serving


@pytest.fixture(scope="module")
def waiting(host: Host) -> Any:
    """A run of acme's that waits for an approval, about a customer with a hostile name."""
    customer = host.do("customers/create", {"name": HOSTILE, "email": "ada@example.org"})
    job = host.do("jobs/create", {"customer_id": customer["id"], "title": HOSTILE})["id"]
    host.do("jobs/schedule", {"job_id": job, "day": "2031-03-03"})
    host.do("jobs/complete", {"job_id": job}, TOM)
    until(lambda: host.do("invoices/list", {}))
    host.do("invoices/issue", {"invoice_id": job, "due": "2031-03-17", "amount": 240_000})
    host.do("invoices/mark_overdue", {"invoice_id": job, "day": "2031-05-30"})
    (run,) = until(lambda: host.get("/api/runs?status=paused", MARIA).json()["data"])
    return run


class Tags(HTMLParser):
    """The tags of a page, and what its controls are called."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


def test_the_page_holds_no_data_of_anybody(host: Host, waiting: Any) -> None:
    response = host.client.get("/status")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == PAGE
    assert host.client.get("/status?tenant=acme&user=maria", headers=MARIA).text == PAGE


def test_the_page_needs_nothing_from_anywhere_else() -> None:
    assert not [attributes for _, attributes in tags_of(PAGE) if attributes.get("src")]
    assert {attributes.get("href") for tag, attributes in tags_of(PAGE) if tag == "link"} == {"data:,"}
    assert "http:" not in PAGE
    assert "https:" not in PAGE
    assert "@import" not in PAGE


def test_only_its_own_script_and_style_count(host: Host) -> None:
    policy = host.client.get("/status").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [name for _, attributes in tags_of(PAGE) for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("door", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"])
def test_no_markup_is_made_of_what_the_server_says(door: str) -> None:
    assert door not in PAGE


def test_the_page_is_for_everybody() -> None:
    tags = tags_of(PAGE)
    assert dict(tags)["html"]["lang"] == "en"
    assert {"header", "main", "h1", "h2", "title", "label"} <= {tag for tag, _ in tags}
    assert {attributes.get("role") for _, attributes in tags} >= {"status", "alert"}
    assert "prefers-color-scheme: dark" in PAGE
    assert ":focus-visible" in PAGE


def test_every_route_that_the_page_asks_is_there(host: Host, waiting: Any) -> None:
    asked = {
        path.split("?")[0].split("$")[0].rstrip("/") for path in re.findall(r"[\"`](/(?:api|events)[^\"`]*)", PAGE)
    }
    assert asked == {"/api/runs", "/api/approvals", "/api/log", "/events"}
    run = host.get(f"/api/runs/{waiting['id']}", MARIA).json()["data"]
    assert {"status", "step", "steps", "input", "error", "approval_id", "updated_at", "paused_for"} <= run.keys()
    (approval,) = host.get("/api/approvals?status=pending&limit=200", MARIA).json()["data"]["items"]
    assert (approval["id"], approval["permission"]) == (run["approval_id"], "invoices.escalate")
    entry = host.get("/api/log?limit=200", MARIA).json()["data"]["items"][0]
    assert {"action", "outcome", "actor_type", "actor_id", "reason", "started_at", "model", "error"} <= entry.keys()


def test_a_hostile_name_travels_as_json_and_never_as_markup(host: Host, waiting: Any) -> None:
    for path in (f"/api/runs/{waiting['id']}", "/api/approvals?status=pending", "/api/log?limit=200"):
        response = host.get(path, MARIA)
        assert response.headers["content-type"] == "application/json"
        assert HOSTILE in response.text
    assert waiting["input"]["customer"] == HOSTILE


def test_who_may_not_read_runs_or_the_log_is_shown_neither(host: Host, waiting: Any) -> None:
    assert [host.get(path, TOM).status_code for path in ("/api/runs", "/api/log", "/events")] == [403, 403, 403]
    assert host.get("/api/approvals", TOM).json()["data"]["items"] == []
    assert host.get(f"/api/runs/{waiting['id']}", CARLA).status_code == 200
    assert host.get("/api/approvals?status=pending", CARLA).json()["data"]["items"] == []
    assert host.client.post(f"/api/approvals/{waiting['approval_id']}/approve", headers=CARLA).status_code in (403, 404)
    for path in ("/api/runs", "/api/log", "/api/approvals", "/events"):
        assert host.client.get(path).status_code == 401


def test_another_tenant_sees_none_of_it(host: Host, waiting: Any) -> None:
    theirs = person("maria", "globex")
    assert host.get("/api/runs", theirs).json()["data"] == []
    assert host.get("/api/approvals", theirs).json()["data"]["items"] == []
    assert HOSTILE not in host.get("/api/log?limit=1000", theirs).text
    assert host.get(f"/api/runs/{waiting['id']}", theirs).status_code == 404
    assert host.client.post(f"/api/approvals/{waiting['approval_id']}/approve", headers=theirs).status_code == 404


def test_the_picture_in_the_docs_is_small() -> None:
    picture = Path(__file__).parents[2] / "docs" / "images" / "status-page.png"
    assert picture.stat().st_size < 150_000
