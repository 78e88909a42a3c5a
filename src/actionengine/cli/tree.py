"""The drawing of a tree of causes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from actionengine.builtin.cause_tree import CauseNode, LogTree
from actionengine.cli.terminal import escape, iso, width, wrap, write

_MIN_TEXT = 44
"""Columns that stay for the text of a node: an id has 36. Below that, deeper nodes are not indented further."""

_LINES = ("├─ ", "└─ ", "│  ", "   ")
_ASCII_LINES = ("|- ", "`- ", "|  ", "   ")


def write_tree(tenant: str, tree: LogTree) -> None:
    """Print a tree, the cause of all first, with a mark at the thing that was asked for."""
    write(*wrap(escape(f"tenant {tenant}")))
    for first, rest, node in _placed(tree.nodes):
        lines = [f"{_title(node)}{'  <- this one' if node.id == tree.id else ''}", *_details(node)]
        for number, text in enumerate(lines):
            prefix = rest if number else first
            # The lines after a title are indented further than it.
            indent = len(prefix) if len(wrap(escape(text), len(prefix))) == 1 else len(rest)
            for line in wrap(escape(text), indent):
                write(prefix + line[indent:])
                prefix = rest
    for sentence in tree.truncated:
        write(*wrap(escape(f"left out: {sentence}")))


def _placed(nodes: Sequence[CauseNode]) -> Iterator[tuple[str, str, CauseNode]]:
    """Yield each node with the beginnings of its first line and of its other lines."""
    middle, end, bar, blank = _LINES if _can_draw() else _ASCII_LINES
    deepest = max(0, (width() - _MIN_TEXT) // len(bar))
    last_of = {node.parent: node.id for node in nodes}
    parents = {node.parent for node in nodes}
    bars: dict[str, str] = {}
    for node in nodes:
        if node.parent is None:
            first, rest = "", ""
        else:
            is_last = last_of[node.parent] == node.id
            above = bars[node.parent]
            first, rest = above + (end if is_last else middle), above + (blank if is_last else bar)
            if node.depth > deepest:
                first, rest = above, above
        bars[node.id] = rest
        yield first, rest + (bar if node.id in parents else blank), node


def _can_draw() -> bool:
    try:
        "".join(_LINES).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _title(node: CauseNode) -> str:
    kind = "" if node.kind == "execution" else f"{node.kind} "
    subject = f"  {node.event.subject}" if node.event is not None and node.event.subject is not None else ""
    status = "" if node.status is None else f"  {node.status}"
    return f"{kind}{node.title}{subject}{status}"


def _details(node: CauseNode) -> Iterator[str]:
    yield node.id
    by = "" if node.actor is None else f"by {node.actor}"
    at = "" if node.at is None else f"at {iso(node.at)}"
    if by or at:
        yield " ".join(filter(None, (by, at)))
    if node.entry is not None and node.entry.reason is not None:
        yield f"reason: {node.entry.reason}"
    if node.entry is not None and node.entry.error is not None:
        yield f"error: {node.entry.error['code']}: {node.entry.error['message']}"
    if node.approval is not None and node.approval.decided_by is not None:
        comment = "" if node.approval.comment is None else f": {node.approval.comment}"
        yield f"decided by {node.approval.decided_by}{comment}"
    if node.run is not None and node.run.step is not None:
        yield f"at step {node.run.step}"
    if not node.is_complete:
        yield "it may have caused more"
