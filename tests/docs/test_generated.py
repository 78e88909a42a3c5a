"""The generated pages are as their sources are now."""

import re
from types import ModuleType

import pytest

import actionengine
from actionengine import boundary, changes, durable, workflows
from tests.docs.generated import AREAS, COMMAND, DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), f"write it again: {COMMAND}"


def test_every_decision_has_an_area_and_a_number_of_its_own() -> None:
    decisions = [page for page in (DOCS / "decisions").rglob("*.md") if page.name != "index.md"]
    assert {page.parent.name for page in decisions} == set(AREAS)
    assert len({page.name[:4] for page in decisions}) == len(decisions)


@pytest.mark.parametrize("part", [actionengine, boundary, changes, durable, workflows], ids=lambda part: part.__name__)
def test_reference_has_every_public_name(part: ModuleType) -> None:
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    known = {*re.findall(r"^#### (\w+)$", reference, re.MULTILINE), *re.findall(r"`(\w+)`", reference)}
    names = getattr(part, "__all__", None) or [name for name in dir(part) if not name.startswith("_")]
    assert [name for name in names if name not in known] == []
