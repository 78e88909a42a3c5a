"""Live pages in the browser: what another operator does appears without a reload, by the stream or by polls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import HOW_TO_GET, find_chromium
from tests.console.checks import Visit, assert_accessible, visit
from tests.console.live_server import Server, look_often, served
from tests.console.till import Till, by

expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of this file. While it runs, this thread can run no other event loop."""
    found = find_chromium()
    if found is None:
        pytest.skip(HOW_TO_GET)
    with found.started() as browser:
        yield browser


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make streams look often."""
    look_often(monkeypatch)


@pytest.fixture
def server(till: Till) -> Iterator[Server]:
    with served(till) as server:
        yield server


@pytest.fixture
def boss(browser: Browser, server: Server) -> Iterator[Visit]:
    with visit(browser, server.origin, headers=by("boss")) as boss:
        yield boss


def open_approvals(boss: Visit) -> Page:
    """Open the approvals, of which none waits, with a mark that a reload would remove."""
    page = boss.open("/approvals")
    expect(page.get_by_text("None is pending.")).to_be_visible()
    page.evaluate("document.body.dataset.mark = 'kept'")
    return page


def await_stream(page: Page) -> None:
    """Wait until the page reads its stream."""
    # The page's policy forbids the `eval` of Playwright's own wait.
    for _ in range(600):
        if page.evaluate("() => Boolean(document.querySelector('#live')?._htmx?.sse?.reader)"):
            return
        page.wait_for_timeout(50)
    raise AssertionError("the page has no stream")


def assert_not_reloaded(page: Page) -> None:
    assert page.evaluate("document.body.dataset.mark") == "kept"


def test_an_approval_appears_by_the_stream(server: Server, boss: Visit) -> None:
    page = open_approvals(boss)
    await_stream(page)

    server.till.ask()

    expect(page.get_by_role("link", name="payments.pay")).to_be_visible()
    assert_not_reloaded(page)
    assert_accessible(page)

    server.till.ask(6)
    expect(page.get_by_role("link", name="payments.pay")).to_have_count(2)


def test_the_focus_stays_on_its_link(server: Server, boss: Visit) -> None:
    server.till.ask()
    page = boss.open("/approvals")
    await_stream(page)
    link = page.get_by_role("link", name="payments.pay")
    link.focus()
    address = page.evaluate("document.activeElement.href")

    server.till.ask(6)

    expect(link).to_have_count(2)
    assert page.evaluate("document.activeElement.href") == address


def test_an_approval_appears_by_a_poll(server: Server, boss: Visit) -> None:
    boss.context.route("**/live?*", lambda route: route.fulfill(status=503, body="no streams here"))
    boss.context.clock.install()
    page = open_approvals(boss)
    server.till.ask()

    boss.context.clock.fast_forward(31_000)

    expect(page.get_by_role("link", name="payments.pay")).to_be_visible()
    assert_not_reloaded(page)
    # The browser names each answer that is an error.
    assert all("503" in problem for problem in boss.problems)
    boss.problems.clear()


def test_a_lost_session_leaves_the_page_as_it_is(server: Server, boss: Visit) -> None:
    server.till.ask()
    page = boss.open("/approvals")
    await_stream(page)
    # The host's login page answers instead of the console.
    login = "<!doctype html><title>Login</title><h1>Sign in</h1>"
    boss.context.route("**/approvals", lambda route: route.fulfill(status=200, body=login, content_type="text/html"))

    with page.expect_response("**/approvals"):
        server.till.ask(6)

    expect(page.get_by_role("link", name="payments.pay")).to_have_count(1)
    expect(page.get_by_text("Sign in")).to_have_count(0)
