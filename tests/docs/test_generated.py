"""The generated pages are as their sources are now."""

from pathlib import Path

import pytest

from tests.docs.generated import AREAS, COMMAND, DOCS, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], f"write it again: {COMMAND}"


def test_every_decision_has_an_area_and_a_number_of_its_own() -> None:
    decisions = [page for page in (DOCS / "decisions").rglob("*.md") if page.name != "index.md"]
    assert {page.parent.name for page in decisions} == set(AREAS)
    assert len({page.name[:4] for page in decisions}) == len(decisions)
