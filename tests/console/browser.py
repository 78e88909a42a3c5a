"""The headless Chromium of the console's tests: found on this machine, and started with Playwright.

`python -m tests.console.browser` prints which one the tests use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROOT = Path(__file__).parents[2]
HOW_TO_GET = (
    "no Chromium was found: run `apt-get install chromium`, or `npm install --no-save @sparticuz/chromium` in "
    f"{ROOT.name}/, or name one in ACTIONENGINE_BROWSER"
)

_INFLATE = (
    "const [from, to] = process.argv.slice(1), fs = require('fs');"
    "fs.createReadStream(from).pipe(require('zlib').createBrotliDecompress()).pipe(fs.createWriteStream(to))"
)
_FONTS = '<?xml version="1.0"?><fontconfig><dir>{0}</dir><cachedir>{0}/cache</cachedir></fontconfig>'


@dataclass(frozen=True)
class Chromium:
    """A Chromium on this machine, and the variables of the environment that it needs besides those of the process."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def started(self) -> Iterator[Browser]:
        """Start it for a block. Meanwhile no other event loop can run in this thread."""
        from playwright.sync_api import sync_playwright  # Few tests need it, and importing it takes long.

        # Chromium's own sandbox refuses root, as which containers run tests.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=self.path, args=arguments, env={**os.environ, **self.environment}
            )
            try:
                yield browser
            finally:
                browser.close()


@cache
def find_chromium() -> Chromium | None:
    """Return the Chromium of ACTIONENGINE_BROWSER, else of the PATH, of Playwright, or of the npm package."""
    given = os.environ.get("ACTIONENGINE_BROWSER")
    if given:
        if shutil.which(given) is None:
            raise FileNotFoundError(f"ACTIONENGINE_BROWSER names {given!r}, which is no program")
        return Chromium(Path(given))
    for found in filter(None, map(shutil.which, NAMES)):
        return Chromium(Path(found))
    return _of_playwright() or _of_npm()


def describe_chromium() -> str:
    """Return a line that names the Chromium of the tests, or the way to get one."""
    found = find_chromium()
    return f"browser: {found.path}" if found is not None else f"browser: none; {HOW_TO_GET}"


def _of_playwright() -> Chromium | None:
    default = Path.home() / ".cache" / "ms-playwright"
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or default)
    programs = sorted(folder.glob("chromium*/*/chrome")) + sorted(folder.glob("chromium*/*/*headless*shell"))
    return Chromium(programs[-1]) if programs else None


def _of_npm() -> Chromium | None:
    """Return the Chromium inside `@sparticuz/chromium`, unpacked beside its package on the first call.

    The package lies in `node_modules` of the repository, or in the folder of ACTIONENGINE_CHROMIUM_PACKAGE.
    """
    package = Path(os.environ.get("ACTIONENGINE_CHROMIUM_PACKAGE") or ROOT / "node_modules" / "@sparticuz" / "chromium")
    if not (package / "bin" / "chromium.br").is_file() or shutil.which("node") is None:
        return None
    unpacked = package / "unpacked"
    if not unpacked.is_dir():
        _unpack(package / "bin", unpacked)
    # The libraries are those of another distribution: they help where this machine has none.
    libraries = f"{os.environ.get('LD_LIBRARY_PATH', '')}:{unpacked / 'lib'}".removeprefix(":")
    return Chromium(unpacked / "chromium", {"FONTCONFIG_PATH": str(unpacked), "LD_LIBRARY_PATH": libraries})


def _unpack(packed: Path, to: Path) -> None:
    """Unpack the program, its fonts and its libraries; several processes may do it at once."""
    with tempfile.TemporaryDirectory(dir=to.parent) as temporary:
        folder = Path(temporary) / "unpacked"
        folder.mkdir()
        _inflate(packed / "chromium.br", folder / "chromium")
        (folder / "chromium").chmod(0o755)
        for name in ("fonts.tar", "al2023.tar"):
            archive = Path(temporary) / name
            _inflate(packed / f"{name}.br", archive)
            with tarfile.open(archive) as files:
                files.extractall(folder, filter="data")
        (folder / "fonts.conf").write_text(_FONTS.format(to / "fonts"))
        try:
            folder.rename(to)
        except OSError:
            if not to.is_dir():
                raise


def _inflate(packed: Path, to: Path) -> None:
    subprocess.run(["node", "-e", _INFLATE, packed, to], check=True)


if __name__ == "__main__":
    print(describe_chromium())
