"""The search for a Chromium. These tests need none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console import browser

find = browser.find_chromium.__wrapped__


def found_one() -> browser.Chromium:
    found = find()
    assert found is not None
    return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a browser: its PATH is a folder of the test."""
    for name in ("ACTIONENGINE_BROWSER", "ACTIONENGINE_CHROMIUM_PACKAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setattr(browser, "ROOT", tmp_path)
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_a_browser_the_way_to_one_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "find_chromium", find)

    assert find() is None
    for words in ("apt-get install chromium", "npm install", "@sparticuz/chromium", "ACTIONENGINE_BROWSER"):
        assert words in browser.describe_chromium()


def test_browsers_are_found_in_their_order(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(machine / "playwright" / "chromium-1200" / "chrome-linux" / "chrome")
    assert found_one().path == own
    for name in reversed(browser.NAMES):
        found = program(machine / name)
        assert found_one().path == found
    given = program(machine / "elsewhere" / "mine")
    monkeypatch.setenv("ACTIONENGINE_BROWSER", str(given))
    assert found_one().path == given


def test_a_browser_that_is_named_has_to_be_there(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONENGINE_BROWSER", str(machine / "nothing"))

    with pytest.raises(FileNotFoundError, match="ACTIONENGINE_BROWSER names"):
        find()


def test_the_browser_of_the_npm_package_is_unpacked_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = machine / "node_modules" / "@sparticuz" / "chromium"
    program(package / "bin" / "chromium.br")
    program(machine / "node")
    unpacked: list[Path] = []

    def unpack(packed: Path, to: Path) -> None:
        unpacked.append(packed)
        program(to / "chromium")

    monkeypatch.setattr(browser, "_unpack", unpack)
    found = [found_one(), found_one()]

    assert [each.path for each in found] == [package / "unpacked" / "chromium"] * 2
    assert unpacked == [package / "bin"]
    assert found[0].environment["FONTCONFIG_PATH"] == str(package / "unpacked")
