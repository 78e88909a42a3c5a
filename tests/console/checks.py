"""Checks of a page in the browser: accessibility, its policy, its width, its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

Scheme = Literal["light", "dark"]

NARROW, WIDE = 380, 1280
AXE = Axe()
OPTIONS = {
    "resultTypes": ["violations"],
    "rules": {name: {"enabled": True} for name in ("target-size", "meta-refresh-no-exceptions")},
}
"""All rules that axe has on by default, its best practices among them, and two more. Off stay its experiments, and two
rules of WCAG AAA: a contrast of 7:1, and that links of one name lead to one place."""

_REPORTS = """
document.addEventListener('securitypolicyviolation', e => reportViolation(`${e.violatedDirective} ${e.blockedURI}`))
"""

_FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]"
_MARK_FOCUSABLE = f"""() => {{
    const shown = element => element.checkVisibility() && !element.disabled && element.tabIndex >= 0
    const all = [...document.querySelectorAll({_FOCUSABLE!r})].filter(shown)
    all.forEach((element, number) => element.dataset.number = number)
    return all.map(element => element.outerHTML.slice(0, 120))
}}"""
_FOCUSED = """() => {
    const element = document.activeElement
    if (element.dataset.number === undefined) return null
    const style = getComputedStyle(element), box = element.getBoundingClientRect()
    return {
        number: Number(element.dataset.number),
        ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        seen: box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth,
    }
}"""


@dataclass
class Visit:
    """Pages of one caller in a context of the browser, and the problems that they had."""

    origin: str
    context: BrowserContext
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Open a path of the server in a new tab."""
        page = self.context.new_page()
        page.goto(self.origin + path, wait_until="load")
        return page

    def report(self, problem: str) -> None:
        self.problems.append(problem)

    def watch(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.report(str(error)))
        page.on("request", self._look_at)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.report(message.text)

    def _look_at(self, request: Request) -> None:
        if urlsplit(request.url)[:2] != urlsplit(self.origin)[:2]:
            self.problems.append(f"a request to another origin: {request.url}")


@contextmanager
def visit(
    browser: Browser,
    origin: str,
    *,
    width: int = WIDE,
    scheme: Scheme = "light",
    javascript: bool = True,
    headers: dict[str, str] | None = None,
) -> Iterator[Visit]:
    """Give a new context of the browser. At the end its pages must have had no problem."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        java_script_enabled=javascript,
        extra_http_headers=headers or {},
        reduced_motion="reduce",
    )
    context.set_default_timeout(15_000)
    visit = Visit(origin, context)
    try:
        if javascript:
            context.expose_function("reportViolation", visit.report)
            context.add_init_script(_REPORTS)
        context.on("page", visit.watch)
        yield visit
    finally:
        context.close()
    assert not visit.problems, visit.problems


def assert_accessible(page: Page) -> None:
    """Check a page with axe: 0 violations."""
    found: Any = AXE.run(page, options=OPTIONS).response["violations"]
    assert not found, [
        (
            rule["id"],
            rule["help"],
            [(node["target"], node["html"][:200], node.get("failureSummary")) for node in rule["nodes"]],
        )
        for rule in found
    ]


def assert_fits(page: Page) -> None:
    """Check that a page does not scroll sideways."""
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1], (page.url, widths)


def press_until_focused(page: Page, name: str, key: str = "Tab") -> None:
    """Press a key until a control whose name begins with this one has the focus."""
    for _ in range(200):
        page.keyboard.press(key)
        if page.evaluate("document.activeElement.textContent").strip().startswith(name):
            return
    raise AssertionError(f"{key} does not lead to {name!r}")


def assert_keyboard(page: Page) -> list[str]:
    """Check that Tab reaches each control once, in the order of the page, with a visible focus; return the controls."""
    controls: list[str] = page.evaluate(_MARK_FOCUSABLE)
    reached: list[int] = []
    for _ in range(3 * len(controls) + 10):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused is None:
            if reached:
                break
            continue
        number = focused["number"]
        if reached and reached[-1] == number:
            continue  # A field for a time has several stops.
        if number in reached:
            break
        assert focused["ring"], f"the focus is invisible on {controls[number]}"
        assert focused["seen"], f"the focus is out of sight on {controls[number]}"
        reached.append(number)
    assert reached == sorted(reached), [controls[number] for number in reached]
    missed = [control for number, control in enumerate(controls) if number not in reached]
    assert not missed, missed
    return controls
