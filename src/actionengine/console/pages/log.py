"""The action log: a search whose address can be kept, and one execution with the tree of its causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

from actionengine.console.errors import error_page
from actionengine.console.page import Page
from actionengine.console.visit import Visit
from actionengine.context import ActorType
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.rows import Outcome


class Filter(NamedTuple):
    """A filter of the search: a text, one of its `choices`, or a time. `hint` is an example of it."""

    name: str
    label: str
    hint: str = ""
    choices: tuple[str, ...] = ()
    is_time: bool = False


FILTERS = (
    Filter("text", "Words of the reason"),
    Filter("subject", "Subject", "invoices/17"),
    Filter("action", "Action", "payments.refund"),
    Filter("outcome", "Outcome", choices=get_args(Outcome)),
    Filter("since", "From (UTC)", is_time=True),
    Filter("until", "Before (UTC)", is_time=True),
)
MORE_FILTERS = (
    Filter("actor_type", "Actor's type", choices=get_args(ActorType)),
    Filter("actor_id", "Actor's id", "carla"),
    Filter("principal", "On behalf of", "human:carla"),
    Filter("request_id", "Request id"),
    Filter("idempotency_key", "Idempotency key"),
    Filter("approval_id", "Approval id"),
    Filter("parent_id", "Parent execution"),
)
"""Filters that are folded away until one of them is used."""

_LIMIT = 50


async def search_log(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the search. A filter that is not valid is explained above the form, which keeps it."""
    filters = (*FILTERS, *MORE_FILTERS)
    given = {each.name: value for each in filters if (value := visit.parameter(each.name)) is not None}
    before = visit.cursor("before")
    variables = {
        "given": given,
        "before": before,
        "filters": FILTERS,
        "more_filters": MORE_FILTERS,
        "uses_more": any(each.name in given for each in MORE_FILTERS),
        "found": None,
    }
    payload = {
        **given,
        **{each.name: _in_utc(given[each.name]) for each in filters if each.is_time and each.name in given},
    }
    try:
        found = await visit.read("action_log.list", {**payload, "before": before, "limit": _LIMIT})
    except ActionError as error:
        if error.code is not ErrorCode.INVALID_INPUT:
            raise
        return {**variables, "problem": error_page(error)}
    return {**variables, "found": found}


async def show_execution(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of one execution, and the tree of causes around it."""
    tree = await visit.read("action_log.tree", {"id": visit.path_parameter("id")})
    entry = next(node.entry for node in tree.nodes if node.id == tree.id and node.entry is not None)
    return {"title": entry.action, "entry": entry, "tree": tree, "branches": _branches(tree.nodes)}


class Branch(NamedTuple):
    """A node of a tree, and the branches below it."""

    node: Any
    below: list[Branch]


def _branches(nodes: Iterable[Any]) -> list[Branch]:
    """Return the nodes of a tree as nested branches. Each node comes after the one above it."""
    levels: list[list[Branch]] = [[]]
    for node in nodes:
        branch = Branch(node, [])
        del levels[node.depth + 1 :]
        levels[node.depth].append(branch)
        levels.append(branch.below)
    return levels[0]


def _in_utc(given: str) -> str:
    """Return the time of a form, which has no offset, as one of UTC; another text as it is."""
    try:
        time = datetime.fromisoformat(given)
    except ValueError:
        return given
    return time.replace(tzinfo=UTC).isoformat() if time.tzinfo is None else given


PAGES = (
    Page(
        path="/log",
        title="Log",
        view=search_log,
        template="log.html",
        action="action_log.list",
        in_navigation=True,
    ),
    Page(path="/log/{id}", title="Execution", view=show_execution, template="execution.html", action="action_log.tree"),
)
