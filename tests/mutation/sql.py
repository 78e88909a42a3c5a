"""SQL, broken by the rules below: conditions go, comparisons shift, locks and triggers and policies are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Break(NamedTuple):
    """One mutant: the object that it is in, what it changes, and the whole text with that change."""

    where: str
    change: str
    text: str


class Span(NamedTuple):
    """A text and its replacement."""

    start: int
    end: int
    replacement: str


_STATEMENT = re.compile(
    r"^(?P<name>[A-Z_]+) = f?\"\"\"$.*?^\"\"\"$"
    r"|^(?:CREATE (?:UNIQUE )?(?:FUNCTION|TRIGGER|TABLE|POLICY|INDEX) (?P<object>\w+(?:\.\w+)?(?: ON \w+\.\w+)?)"
    r"|DO|REVOKE|ALTER TABLE (?P<altered>[\w.]+))\b",
    re.DOTALL | re.MULTILINE,
)
_ENDS = re.compile(
    r"\b(AND|OR|THEN|ORDER BY|GROUP BY|LIMIT|FOR (?:UPDATE|SHARE)|RETURNING|LOOP|WHEN|ELSE|BEGIN|END|EXECUTE|USING)\b"
    r"|\b(WHERE|JOIN|SET)\b"
    r"|[;,]|\$\$|\"\"\""
)


def breaks(text: str, wanted: Callable[[str], bool]) -> Iterator[Break]:
    """The mutants of those statements of a script, or of a module, whose names are wanted."""
    for start, end, name in _statements(text):
        if not wanted(name):
            continue
        seen: set[str] = set()
        for span in _spans(text[start:end]):
            before = text[start:end]
            after = before[: span.start] + span.replacement + before[span.end :]
            if after != before and after not in seen:
                seen.add(after)
                yield Break(name, _change(before, span), text[:start] + after + text[end:])


def _statements(text: str) -> Iterator[tuple[int, int, str]]:
    found = list(_STATEMENT.finditer(text))
    for match, following in zip(found, [*found[1:], None], strict=True):
        name = match["name"] or match["object"] or match["altered"] or match[0]
        end = match.end() if match["name"] else following.start() if following else len(text)
        yield match.start(), end, name


def _spans(statement: str) -> Iterator[Span]:
    # Comments are not code.
    code = re.sub(r"--.*", lambda comment: " " * len(comment[0]), statement)
    if re.match(r"CREATE TRIGGER|CREATE POLICY|ALTER TABLE", code):
        yield Span(0, _end_of_statement(code), "")
    yield from _conditions(code)
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"(?<=[\w)?] )(<=|>=|<>|<|>)(?= [\w(?:%])", lambda found: _SHIFTED[found[0]]),
        (r"\bIS NOT NULL\b", "IS NULL"),
        (r"\bIS NULL\b", "IS NOT NULL"),
        (r"\bNOT EXISTS\b", "EXISTS"),
        (r"(?<=AND )NOT (?=\w)", ""),
        (r"\s+FOR UPDATE SKIP LOCKED", ""),
        (r" SKIP LOCKED", ""),
        (r"\s+FOR (UPDATE|SHARE)(?=;|\s*$|\s*\))", ""),
        (r"\s+ON CONFLICT DO NOTHING", ""),
        (r"\s+ORDER BY [^\n]+", ""),
        (r"\s+LIMIT \w+(?=\s)", ""),
        (r"LIMIT \?", "LIMIT ? + 1000000"),
        (r"(?<=IF )(?!NOT FOUND)[^;]*?(?= THEN)", "false"),
        (r"(?<=BEFORE )INSERT OR ", ""),
        (r" OR (DELETE|TRUNCATE|UPDATE)(?=[^\n]* ON )", ""),
        (r"(?<=BEFORE )(UPDATE|DELETE) OR ", ""),
        (r",?\s+CONSTRAINT \w+ CHECK \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", ""),
        (r",\s+CONSTRAINT \w+ UNIQUE \([^()]*\)", ""),
        (r"\bmin\(", "max("),
        (r"(?<=SET )\w+ = [^,\n?]+, ", ""),
        (r", \w+ = [^,\n?]+(?=\n|,)", ""),
        (
            r"\b(\w+) = \?(?=,|\nWHERE)",
            lambda found: f"{found[1]} = CASE WHEN ? IS NULL THEN {found[1]} ELSE {found[1]} END",
        ),
        (r"\s+SECURITY DEFINER", ""),
        (r"\s+PERFORM public\.ae_operate\([^;]*\);", ""),
        (r"\bEXECUTE format\([^;]*\);", ""),
    ]
    for pattern, replacement in rules:
        for found in re.finditer(pattern, code, re.MULTILINE):
            yield Span(*found.span(), replacement if isinstance(replacement, str) else replacement(found))


_SHIFTED = {"<=": "<", ">=": ">", "<": "<=", ">": ">=", "<>": "="}


def _conditions(code: str) -> Iterator[Span]:
    """Each condition that another one stands beside counts for nothing. Its parameters stay."""
    for found in re.finditer(r"\b(AND|OR) ", code):
        if not re.search(r"BETWEEN [\w:()]+\s*$", code[: found.start()]):
            yield _neutral(code, found.end(), _end_of_operand(code, found.end()), found[1])
    for found in re.finditer(r"\b(WHERE|WHEN|USING|IF|ON) \(?", code):
        end = _end_of_operand(code, found.end())
        following = re.match(r"\s*(AND|OR) ", code[end:])
        if following:
            yield _neutral(code, found.end(), end, following[1])


def _neutral(code: str, start: int, end: int, operator: str) -> Span:
    return Span(start, end, f"({code[start:end]} {'OR true' if operator == 'AND' else 'AND false'})")


def _end_of_operand(code: str, start: int) -> int:
    depth = 0
    position = start
    while position < len(code):
        character = code[position]
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and _ENDS.match(code, position) and not code[position - 1 : position].isalnum():
            break
        position += 1
    return len(code[:position].rstrip())


def _end_of_statement(code: str) -> int:
    return code.index(";") + 1


def _change(statement: str, span: Span) -> str:
    removed = " ".join(statement[span.start : span.end].split())
    before = " ".join(statement[: span.start].split())[-40:]
    shown = f"{removed} -> {span.replacement}" if span.replacement else f"without {removed}"
    return f"{shown} after {before}" if before else shown
