"""`python -m tests.console.screenshots`: write the pictures of the console in the docs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.console.browser import HOW_TO_GET, ROOT, find_chromium
from tests.console.checks import NARROW, WIDE, Scheme, visit
from tests.console.serving import opened, seed, served
from tests.console.site import ROOT as CONSOLE

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 150_000


class Picture(NamedTuple):
    """A picture of a page, as a caller sees it. The path has names of `Site.things` in braces."""

    name: str
    path: str
    height: int
    width: int = WIDE
    scheme: Scheme = "light"
    caller: str = "maria"


PICTURES = (
    Picture("overview", "/", 560, caller="olga"),
    Picture("approval", "/approvals/{approval}", 1000),
    Picture("log", "/log?text=customer+called&action=payments.refund", 640),
    Picture("causes", "/log/{execution}", 720, scheme="dark"),
    Picture("change", "/changes/{change}", 800),
    Picture("narrow", "/approvals/{approval}", 760, width=NARROW, scheme="dark"),
)


def main() -> None:
    """Write each picture, for the pages that do as their callers may."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(HOW_TO_GET)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "business.db"
        seed(file, {"acme": ""})
        with opened(file, "Acme Plumbing") as site, served(site.app) as origin, chromium.started() as browser:
            things = site.things("acme")
            for each in PICTURES:
                headers = {"x-caller": each.caller}
                with visit(browser, origin, width=each.width, scheme=each.scheme, headers=headers) as pages:
                    page = pages.open(CONSOLE + each.path.format(**things))
                    page.set_viewport_size({"width": each.width, "height": each.height})
                    image = page.screenshot(path=IMAGES / f"console-{each.name}.png")
                    assert len(image) <= MAX_BYTES, (each.name, len(image))


if __name__ == "__main__":
    main()
