"""Each kind of SQL that guards something has mutants, and each named part exists."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from functools import partial

import pytest

from tests.mutation.parts import HERE, ROOT, Part, all_parts, survivors
from tests.mutation.sql import breaks


def _fits(pattern: str, name: str) -> bool:
    return fnmatch(name, pattern)


def changes(sql: str) -> set[str]:
    return {" ".join(each.text.split()) for each in breaks(sql, lambda name: True)}


def test_conditions_count_for_nothing_and_keep_their_parameters() -> None:
    sql = 'TAKE = """\nSELECT a\nFROM t\nWHERE a = ? AND (b IS NULL OR c <= ?)\nORDER BY a\nLIMIT ?\n"""\n'
    found = changes(sql)
    for condition in (
        "WHERE (a = ? OR true) AND (b IS NULL OR c <= ?)",
        "WHERE a = ? AND ((b IS NULL OR c <= ?) OR true)",
        "WHERE a = ? AND (b IS NULL OR (c <= ? AND false))",
        "WHERE a = ? AND (b IS NOT NULL OR c <= ?)",
        "WHERE a = ? AND (b IS NULL OR c < ?)",
    ):
        assert any(condition in each for each in found), condition
    assert any("ORDER BY" not in each for each in found)
    assert any("LIMIT ? + 1000000" in each for each in found)


def test_triggers_and_policies_and_locks_are_left_out() -> None:
    sql = (
        "CREATE TRIGGER ae_x BEFORE UPDATE OR DELETE ON public.t\n    EXECUTE FUNCTION public.f();\n"
        "CREATE POLICY ae_p ON public.t USING (true);\n"
        "CREATE FUNCTION public.f() RETURNS trigger AS $$\nBEGIN\n"
        "    PERFORM FROM public.t WHERE a = 1 AND b = 2\n    FOR UPDATE SKIP LOCKED;\n"
        "    IF NOT done OR late THEN\n        RETURN NULL;\n    END IF;\nEND $$;\n"
    )
    found = changes(sql)
    assert any("CREATE TRIGGER" not in each and "CREATE POLICY" in each for each in found)
    assert any("CREATE POLICY" not in each and "CREATE TRIGGER" in each for each in found)
    assert any("BEFORE DELETE ON" in each for each in found)
    assert any("BEFORE UPDATE ON" in each for each in found)
    assert any("FOR UPDATE SKIP" not in each for each in found)
    assert any("IF false THEN" in each for each in found)


@pytest.mark.parametrize("part", all_parts(), ids=lambda part: part.name)
def test_each_part_names_what_there_is(part: Part) -> None:
    assert (ROOT / part.source).exists()
    for test in part.tests:
        assert (ROOT / test.partition("::")[0]).exists()
    if not part.is_python:
        source = (ROOT / part.source).read_text()
        for pattern in part.functions:
            assert list(breaks(source, partial(_fits, pattern))), pattern


def test_each_survivor_has_a_part_and_a_reason() -> None:
    names = {part.name for part in all_parts()} | {"by_hand"}
    for (part, _, _), reason in survivors().items():
        assert part in names
        assert reason


def test_each_break_by_hand_fits_the_code_once() -> None:
    for entry in tomllib.loads((HERE / "by_hand.toml").read_text())["break"]:
        assert (ROOT / entry["source"]).read_text().count(entry["old"]) == 1, entry["what"]
        assert entry["new"] != entry["old"]
        assert all((ROOT / test.partition("::")[0]).exists() for test in entry["tests"]), entry["what"]
