"""Writes the parts of the documentation that other files determine: `python -m tests.docs.generated`."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMAND = "python -m tests.docs.generated"

AREAS = {
    "pipeline": "The pipeline",
    "authorization": "Authorization",
    "storage": "Storage",
    "events": "Events",
    "changes": "Change control",
    "workflows": "Workflows and the durable engine",
    "boundary": "The execution boundary",
    "project": "The project",
}
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


def pages() -> dict[Path, str]:
    """Return the generated pages, with their text."""
    return {DOCS / "decisions" / "index.md": decisions_index()}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
