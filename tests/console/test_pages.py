"""The console in a headless Chromium: each page is accessible, fits its window, and needs neither a mouse nor scripts.

One file has all tests that need a browser, so that one is started.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import HOW_TO_GET, find_chromium
from tests.console.checks import (
    NARROW,
    WIDE,
    Scheme,
    assert_accessible,
    assert_fits,
    assert_keyboard,
    press_until_focused,
    visit,
)
from tests.console.serving import opened, seed, served
from tests.console.site import ROOT, Site

CALLER = "maria"
PATHS = {
    "overview": "/",
    "approvals": "/approvals",
    "approval": "/approvals/{approval}",
    "log": "/log",
    "log, filtered": "/log?actor_id=carla&action=payments.refund",
    "log, refused": "/log?since=yesterday",
    "log, nothing": "/log?subject=nothing/1",
    "execution": "/log/{execution}",
    "runs": "/runs",
    "run": "/runs/{run}",
    "changes": "/changes",
    "change": "/changes/{change}",
    "change, broken": "/changes/{broken}",
    "dead letters": "/dead-letters",
    "budgets": "/budgets",
    "catalogue": "/catalogue",
    "action": "/catalogue/payments/refund",
    "action, large": "/catalogue/changes/add_patch_op",
    "not found": "/nothing",
    "not there": "/approvals/none",
}
"""A page of each kind. Names in braces are of `things`."""

CALLERS = {"dead letters": "olga", "budgets": "olga"}
"""The callers of pages that managers do not have."""

VARIANTS: list[tuple[int, Scheme]] = [(NARROW, "light"), (WIDE, "dark"), (NARROW, "dark"), (WIDE, "light")]
DAILY = VARIANTS[:2]

MARK = "Ann's <b>bold</b> words"
"""A mark in all texts. It is shown as it is."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of this file. While it runs, this thread can run no other event loop."""
    found = find_chromium()
    if found is None:
        pytest.skip(HOW_TO_GET)
    with found.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def seeded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pages") / "business.db"
    seed(file, {"acme": MARK})
    return file


@pytest.fixture(scope="module")
def site(seeded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The console of the business, for tests that change nothing."""
    file = tmp_path_factory.mktemp("shared") / "business.db"
    shutil.copy(seeded_file, file)
    with opened(file) as site:
        yield site


@pytest.fixture(scope="module")
def origin(site: Site) -> Iterator[str]:
    with served(site.app) as origin:
        yield origin


@pytest.fixture
def own_origin(seeded_file: Path, tmp_path: Path) -> Iterator[str]:
    """The origin of a console on a database of the test."""
    shutil.copy(seeded_file, tmp_path / "business.db")
    with opened(tmp_path / "business.db") as site, served(site.app) as origin:
        yield origin


@pytest.fixture(scope="module")
def things(site: Site) -> dict[str, str]:
    return site.things("acme")


def as_(caller: str) -> dict[str, str]:
    return {"x-caller": caller}


# Each page


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("width", "scheme"),
    [pytest.param(*each, marks=() if each in DAILY else pytest.mark.soak) for each in VARIANTS],
)
def test_a_page_is_accessible_and_fits(
    browser: Browser, origin: str, things: dict[str, str], name: str, width: int, scheme: Scheme
) -> None:
    headers = as_(CALLERS.get(name, CALLER))
    with visit(browser, origin, width=width, scheme=scheme, headers=headers) as pages:
        page = pages.open(ROOT + PATHS[name].format(**things))
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert_fits(page)
        assert_accessible(page)
        pages.problems[:] = [each for each in pages.problems if "status of 40" not in each]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("overview", "approval", "log", "execution") else pytest.mark.soak)
        for name in PATHS
    ],
)
@pytest.mark.parametrize("width", [pytest.param(NARROW, marks=pytest.mark.soak), WIDE])
def test_tab_reaches_each_control(browser: Browser, origin: str, things: dict[str, str], name: str, width: int) -> None:
    with visit(browser, origin, width=width, headers=as_(CALLERS.get(name, CALLER))) as pages:
        page = pages.open(ROOT + PATHS[name].format(**things))
        assert assert_keyboard(page)
        pages.problems[:] = [each for each in pages.problems if "status of 40" not in each]


# By keyboard, and without scripts


def test_an_approval_is_given_by_keyboard_alone(browser: Browser, own_origin: str, things: dict[str, str]) -> None:
    with visit(browser, own_origin, headers=as_(CALLER)) as pages:
        page = pages.open(f"{ROOT}/approvals?status=pending")
        press_until_focused(page, "payments.refund")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Approval of payments.refund")
        press_until_focused(page, "Approve")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Approved: the action was executed.")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_customer_asks_who_changed_this(browser: Browser, origin: str, javascript: bool) -> None:
    with visit(browser, origin, width=NARROW, javascript=javascript, headers=as_(CALLER)) as pages:
        page = pages.open(f"{ROOT}/log")
        page.get_by_label("Words of the reason").fill("CUSTOMER called")
        page.get_by_label("Action", exact=True).fill("payments.refund")
        page.get_by_label("Outcome").select_option("succeeded")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="payments.refund").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("payments.refund")
        tree = page.get_by_role("list", name="Causes and effects")
        expect(tree.get_by_role("link", name="approvals.approve")).to_be_visible()
        expect(tree.locator("[aria-current=true]")).to_have_text("payments.refund")
        assert_fits(page)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_decision_in_two_windows_is_made_once(
    browser: Browser, own_origin: str, things: dict[str, str], javascript: bool
) -> None:
    path = f"{ROOT}/approvals/{things['approval']}"
    with visit(browser, own_origin, javascript=javascript, headers=as_(CALLER)) as pages:
        first, second = pages.open(path), pages.open(path)
        first.get_by_role("button", name="Approve").click()
        expect(first.get_by_role("status")).to_have_text("Approved: the action was executed.")
        second.get_by_role("button", name="Reject").click()
        expect(second.get_by_role("alert")).to_contain_text("approved by human:maria")
        expect(second.get_by_role("button", name=re.compile("Approve|Reject"))).to_have_count(0)
        pages.problems[:] = [each for each in pages.problems if "status of 409" not in each]


def test_a_run_is_looked_after_without_scripts(browser: Browser, own_origin: str, things: dict[str, str]) -> None:
    with visit(browser, own_origin, javascript=False, headers=as_(CALLER)) as pages:
        page = pages.open(f"{ROOT}/runs?status=paused")
        page.get_by_role("link", name="refund_late").click()
        expect(page.get_by_text("needs the permission payments.refund").first).to_be_visible()
        page.get_by_role("button", name="Try the step again").click()
        expect(page.get_by_role("status")).to_have_text("Resumed: the run tries its step again.")
        page.get_by_label("Reason").fill("it will never work")
        page.get_by_role("button", name="Cancel the run").click()
        expect(page.get_by_text("it will never work")).to_be_visible()


def test_a_change_is_merged_without_scripts(browser: Browser, own_origin: str, things: dict[str, str]) -> None:
    with visit(browser, own_origin, javascript=False, headers=as_(CALLER)) as pages:
        page = pages.open(f"{ROOT}/changes?status=Ready")
        page.get_by_role("link", name="Keep the colour 3").click()
        expect(page.locator(".diff li.added")).to_contain_text("colour_3")
        page.get_by_role("button", name="Merge").click()
        expect(page.get_by_role("status")).to_contain_text("Merged: the edits are in force")
        expect(page.get_by_role("button", name="Merge")).to_have_count(0)
