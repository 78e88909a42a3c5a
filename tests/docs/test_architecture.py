"""The page on the architecture names every folder and every module of the library, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "src" / "actionengine"

_LINE = re.compile(r"(?P<indent>(?:│   |    )*)[├└]── (?P<rest>.+)")
_ENTRY = re.compile(r"(?P<name>\w+(?:/|\.py))(?:,? +|$)")


def lines_of(page: str) -> dict[str, int]:
    """Return each folder and module that the tree of a page names, with the index of its line in the page."""
    found: dict[str, int] = {"": 0}
    folders: list[str] = []
    for number, text in enumerate(page.splitlines()):
        if text == "src/actionengine/":
            found[""] = number
        line = _LINE.fullmatch(text)
        if line is None:
            continue
        folders = folders[: len(line["indent"]) // 4]
        parent, rest = "".join(folders), line["rest"]
        while entry := _ENTRY.match(rest):
            found[parent + entry["name"]] = number
            if entry["name"].endswith("/"):
                folders.append(entry["name"])
                break
            rest = rest[entry.end() :]
    return found


def named(page: str) -> set[str]:
    """Return each folder and module that the tree of a page names."""
    return set(lines_of(page)) - {""}


def there(source: Path) -> set[str]:
    """Return each folder and module of a package, but `__init__.py` and the versions of migrations."""
    modules = {path.relative_to(source) for path in source.rglob("*.py") if path.parent.name != "versions"}
    folders = {f"{module.parent.as_posix()}/" for module in modules if module.parent != Path()}
    return folders | {module.as_posix() for module in modules if module.name != "__init__.py"}


def test_the_tree_on_the_page_is_the_tree_of_the_library() -> None:
    on_page, in_source = named(PAGE.read_text(encoding="utf-8")), there(SOURCE)

    assert sorted(in_source - on_page) == [], "docs/architecture.md lacks these"
    assert sorted(on_page - in_source) == [], "docs/architecture.md has these, and the library has not"


def test_a_tree_is_read_with_folders_and_shared_lines() -> None:
    page = """
src/app/
├── __init__.py  a.py     what a does, and b.py is no entry here
├── room/                 a room
│   ├── c.py, d.py        two modules
│   └── inner/
│       └── e.py
└── f.py
"""
    assert named(page) == {
        "__init__.py",
        "a.py",
        "room/",
        "room/c.py",
        "room/d.py",
        "room/inner/",
        "room/inner/e.py",
        "f.py",
    }
