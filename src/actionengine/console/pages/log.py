"""The action log: a search whose address can be kept, and one execution with the tree of its causes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from actionengine.console.errors import error_page
from actionengine.console.page import Page
from actionengine.console.visit import Visit
from actionengine.context import ActorType
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.rows import Outcome

TEXTS = {
    "text": "Words of the reason",
    "subject": "Subject",
    "action": "Action",
    "actor_id": "Actor's id",
    "principal": "On behalf of",
    "request_id": "Request",
    "idempotency_key": "Idempotency key",
    "approval_id": "Approval",
    "parent_id": "Parent execution",
}
"""The filters that are texts, and their labels."""

CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "outcome": ("Outcome", get_args(Outcome)),
    "actor_type": ("Actor's type", get_args(ActorType)),
}
TIMES = {"since": "From (UTC)", "until": "Before (UTC)"}
HINTS = {
    "subject": "invoices/17",
    "action": "payments.refund",
    "principal": "human:carla",
}
MAIN = ("text", "subject", "action", "outcome", "since", "until")
"""The filters that are always in sight. The others are folded away until one of them is used."""

_LIMIT = 50


async def search_log(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the search. A filter that is not valid is explained above the form, which keeps it."""
    given = {name: value for name in (*TEXTS, *CHOICES, *TIMES) if (value := visit.parameter(name)) is not None}
    payload = {**given, **{name: _in_utc(given[name]) for name in TIMES if name in given}}
    variables = {
        "given": given,
        "texts": TEXTS,
        "choices": CHOICES,
        "times": TIMES,
        "hints": HINTS,
        "main": MAIN,
        "page": None,
        "before": visit.parameter("before"),
    }
    try:
        found = await visit.read("action_log.list", {**payload, "before": visit.parameter("before"), "limit": _LIMIT})
    except ActionError as error:
        if error.code is not ErrorCode.INVALID_INPUT:
            raise
        return {**variables, "found": None, "problem": error_page(error)}
    return {**variables, "found": found}


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
)
