"""Writes the parts of the documentation that other files determine: `python -m tests.docs.generated`."""

import re
from pathlib import Path
from textwrap import indent

from tests.docs.signatures import Entry, as_markdown, entries, formatted

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMAND = "python -m tests.docs.generated"

AREAS = {
    "pipeline": "The pipeline",
    "authorization": "Authorization",
    "storage": "Storage",
    "events": "Events",
    "agents": "Agents",
    "changes": "Change control",
    "workflows": "Workflows and the durable engine",
    "boundary": "The execution boundary",
    "project": "The project",
}
_DIRECTIVE = re.compile(r"::: (?P<path>\S+)(?: members=(?P<members>\S+))?(?: without=(?P<without>\S+))?")
_TITLE = re.compile(r"# (?P<number>\d{4}): (?P<title>.+)")
_INTRODUCTION = """# Decisions

Each page gives one decision, the problem that it answers, and its consequences. If a decision changes, a new page
replaces the old one, and the old page names its successor.
"""


def decisions_index() -> str:
    """Return the page that lists all decisions, by area."""
    parts = [_INTRODUCTION]
    for area, heading in AREAS.items():
        parts.append(f"\n## {heading}\n\n| | decision |\n|---|---|\n")
        for page in sorted((DOCS / "decisions" / area).glob("*.md")):
            title = _TITLE.match(page.read_text(encoding="utf-8"))
            assert title is not None, f"{page} begins with '# 0123: The decision'"
            assert page.name.startswith(title["number"]), f"{page} has the number {title['number']} in its title"
            parts.append(f"| [{title['number']}]({area}/{page.name}) | {title['title']} |\n")
    return "".join(parts)


def reference() -> str:
    """Return the API reference: the template `reference.md`, with an entry for each line that begins with `:::`."""
    parts: list[str | Entry] = []
    for line in Path(__file__).with_name("reference.md").read_text(encoding="utf-8").splitlines():
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            parts.append(line)
            continue
        members, without = (value.split(",") if value else None for value in directive.group("members", "without"))
        parts += entries(directive["path"], members, without or ())
    stubs = iter(formatted([part.stub for part in parts if isinstance(part, Entry) and part.stub]))
    blocks = (part if isinstance(part, str) else _entry(part, next(stubs) if part.stub else "") for part in parts)
    text = "\n".join(blocks)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _entry(entry: Entry, stub: str) -> str:
    lines = [f"\n#### {entry.name}\n"]
    if stub:
        lines.append(f"```pyi\n{stub}\n```\n")
    lines.append(f"{as_markdown(entry.doc)}\n")
    for name, doc in entry.members:
        lines.append(f"- `{name}`: {indent(as_markdown(doc), '    ').strip()}")
    return "\n".join(lines) + "\n"


PAGES = {"decisions/index.md": decisions_index, "reference.md": reference}
"""The generated pages, with the functions that return their texts."""


if __name__ == "__main__":
    for name, text in PAGES.items():
        (DOCS / name).write_text(text(), encoding="utf-8")
