"""Every code block of the documentation runs, every link leads somewhere, and every table is whole.

The convention, for README.md and docs/**/*.md:

- the `python` blocks of a page run in order, in one namespace;
- what a block prints is the `text` block that follows it at once; without one it prints nothing;
- a `python` block with a title, as in `title="shop/refund.py"`, is a file instead: it is written below a directory on
  `sys.path`, and the page has to import it, or another file that starts it by its name. Files named `test_*.py` are
  run by pytest.

No mark keeps a `python` block from running. The signatures in reference.md are `pyi` blocks.

The pages in `APP_PAGES` make an app by `actionengine new`. From there on, their `console` blocks run too, in the folder
to which they change (`app_session.py`), and their files are those of the app. In an output, `…` stands for any text,
and that of a server may be left out.
"""

import contextlib
import importlib
import io
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote

import pytest

from actionengine import ErrorCode
from examples import embedded_postgres
from tests.docs.app_session import SERVER, AppSession, empty_database, matches

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
APP_PAGES = frozenset({ROOT / "docs/tutorial.md"})
LANGUAGES = frozenset({"python", "text", "console", "sql", "ini", "json"})
SIGNATURES = "pyi"

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)(?P<attributes>[^`]*)")
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"#{1,6} (?P<title>.+)")


class Block(NamedTuple):
    """A fenced block: where its code starts (from 1), and whether only blank lines are between it and the last one."""

    language: str
    title: str | None
    code: str
    line: int
    follows: bool


@dataclass(frozen=True)
class Step:
    """A block that runs, and what it has to print."""

    block: Block
    expected: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str) -> Iterator[Block]:
    lines = iter(enumerate(text.splitlines(), start=1))
    follows = False
    for _, line in lines:
        opening = _FENCE.fullmatch(line)
        if opening is None:
            follows = follows and not line.strip()
            continue
        closing = re.compile(rf"[ \t]*{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*")
        code: list[str] = []
        start = 0
        for number, inner in lines:
            start = start or number
            if closing.fullmatch(inner):
                break
            code.append(inner)
        else:
            raise AssertionError(f"the block that starts at line {start - 1} has no end")
        title = _TITLE.search(opening["attributes"])
        source = textwrap.dedent("".join(f"{line}\n" for line in code))
        yield Block(opening["language"], title["title"] if title else None, source, start, follows)
        follows = True


def steps_of(blocks: Sequence[Block], makes_app: bool = False) -> list[Step]:
    steps: list[Step] = []
    has_app = False
    for index, block in enumerate(blocks):
        has_app = has_app or (makes_app and block.code.startswith("actionengine new"))
        if block.language == "python" or (has_app and block.language == "console"):
            following = blocks[index + 1] if index + 1 < len(blocks) else None
            is_output = following is not None and following.language == "text" and following.follows
            steps.append(Step(block, following.code if is_output and following is not None else ""))
    return steps


def without_fences(text: str) -> str:
    lines: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        opening = _FENCE.fullmatch(line)
        if fence is None and opening is not None:
            fence = opening["fence"]
        elif fence is not None and line.strip().startswith(fence):
            fence = None
        elif fence is None:
            lines.append(line)
    return "\n".join(lines)


def anchors_of(page: Path) -> set[str]:
    headings = (_HEADING.fullmatch(line) for line in without_fences(page.read_text()).splitlines())
    titles = (re.sub(r"[^\w\s-]", "", heading["title"]).strip().lower() for heading in headings if heading)
    return {re.sub(r"[\s-]+", "-", title) for title in titles}


PAGES_WITH_CODE = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page.read_text()))]


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The module in which a page runs; packages that the page writes itself do not outlive it."""
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    # Found before any is deleted: the path of a package inside another asks for that one.
    written = [name for name, imported in list(sys.modules.items()) if is_below(imported, tmp_path)]
    for name in written:
        del sys.modules[name]


def is_below(imported: ModuleType, directory: Path) -> bool:
    """Return whether a module is a file below a directory, or a folder there without an `__init__.py`."""
    places = [getattr(imported, "__file__", None), *(getattr(imported, "__path__", None) or ())]
    return any(str(place).startswith(str(directory)) for place in places)


@pytest.fixture
def shared_postgres(request: pytest.FixtureRequest, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the pages that start a PostgreSQL a database of the tests' server."""
    if "embedded_postgres()" in page.read_text():
        server = request.getfixturevalue("postgres_server")
        database = request.getfixturevalue("fresh_postgres_database")
        monkeypatch.setattr(embedded_postgres, "embedded_postgres", lambda: contextlib.nullcontext(server))
        monkeypatch.setattr(embedded_postgres, "make_database", lambda superuser_url, name: database)


@pytest.fixture
def session(request: pytest.FixtureRequest, page: Path, tmp_path: Path) -> Iterator[AppSession | None]:
    """The terminal of a page that makes an app, with an empty database."""
    if page not in APP_PAGES:
        yield None
        return
    missing = [tool for tool in ("bash", "curl", "make") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the commands of the page need {' and '.join(missing)}: install them")
    session = AppSession(tmp_path, empty_database(request.getfixturevalue("postgres_server"), "shop_owner"))
    yield session
    session.close()


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name_of)
@pytest.mark.usefixtures("shared_postgres")
def test_blocks_of_a_page_print_what_it_says(
    page: Path, namespace: ModuleType, tmp_path: Path, session: AppSession | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in steps_of(list(blocks_of(page.read_text())), makes_app=session is not None):
        block = step.block
        place = f"{name_of(page)}:{block.line}"
        if block.title is not None:
            write_file(tmp_path if session is None else session.folder, block.title, block.code, session is not None)
            continue
        if block.language == "console":
            assert session is not None
            output = session.run(block.code)
            is_server = block.code.strip().endswith(SERVER) and not step.expected
            assert is_server or matches(output, step.expected), f"{place} printed something else:\n{output}"
            monkeypatch.chdir(session.folder)
            monkeypatch.syspath_prepend(session.folder)
            continue
        printed = io.StringIO()
        # Empty lines in front make a traceback name the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace.__dict__)
        assert printed.getvalue() == step.expected, f"{place} printed something else"
    if session is None:
        check_files(tmp_path)


def write_file(folder: Path, title: str, code: str, replaces: bool) -> None:
    file = folder / title
    assert replaces or not file.exists(), f"two blocks are titled {file.name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    importlib.invalidate_caches()


def check_files(directory: Path) -> None:
    files = set(directory.rglob("*.py"))
    if any(file.name.startswith("test_") for file in files):
        # tests/storage runs the whole conformance suite.
        selected = ["-q", "-k", "not TestMyStorage or tenant", "-W", "error", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *selected, "--rootdir", str(directory), "."]
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return
    imported = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    started = {file for file in files for other in files & imported if f'"{file.name}"' in other.read_text()}
    unused = files - imported - started
    assert not unused, f"nothing imports or starts {sorted(file.name for file in unused)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_in_a_known_language(page: Path) -> None:
    known = {*LANGUAGES, SIGNATURES} if page.name == "reference.md" else LANGUAGES
    unknown = {block.language for block in blocks_of(page.read_text())} - known
    assert not unknown, f"use one of {sorted(known)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for match in _LINK.finditer(without_fences(page.read_text())):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in anchors_of(found)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_table_rows_have_the_cells_of_their_header(page: Path) -> None:
    columns = 0
    for line in without_fences(page.read_text()).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) - 1 if line.startswith("|") else 0
        columns = columns if columns and line.strip() else cells
        assert cells == columns, f"{name_of(page)}: {line}"


def test_readme_shows_its_output_on_the_first_screen() -> None:
    output = next(block for block in blocks_of((ROOT / "README.md").read_text()) if block.language == "text")
    assert output.line + output.code.count("\n") <= 45


def test_page_on_errors_has_every_code() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    assert [code for code in ErrorCode if f"`{code}`" not in page] == []


def test_navigation_lists_every_page_once() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    assert sorted(listed) == sorted(page for page in pages if not page.startswith("decisions/"))


def test_a_block_is_found_wherever_it_stands() -> None:
    page = '~~~python\na = 1\n~~~\n\n    ````python title="b.py"\n    ```\n    ````\n\n```text\nout\n```\n'
    found = [(block.language, block.title, block.code, block.line, block.follows) for block in blocks_of(page)]
    assert found == [
        ("python", None, "a = 1\n", 2, False),
        ("python", "b.py", "```\n", 6, True),
        ("text", None, "out\n", 10, True),
    ]
