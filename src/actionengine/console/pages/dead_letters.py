"""Dead letters: events that a relay has given up, to deliver again or to skip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actionengine.console.buttons import Button, Field, Offer
from actionengine.console.page import Page
from actionengine.console.visit import Visit
from actionengine.storage.outbox import QUEUES

REDRIVE = Button(
    action="relay.redrive",
    label="Deliver again",
    done="The relay will deliver it again.",
)
SKIP = Button(
    action="relay.skip",
    label="Skip",
    done="Skipped: it will not be delivered, and later events of its subject continue.",
    fields=(Field(name="reason", label="Reason", required=True),),
    style="danger",
)


async def list_dead_letters(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the page."""
    queue, after = visit.parameter("queue"), visit.cursor("after")
    listed = await visit.read("relay.dead_letters", {"queue": queue, "after": after, "limit": 20})
    rows = [
        (
            letter,
            await visit.offer(
                Offer(REDRIVE, {"ids": [letter.id], "queue": letter.queue}),
                Offer(SKIP, {"ids": [letter.id], "queue": letter.queue}, when=not letter.skipped),
            ),
        )
        for letter in listed.items
    ]
    has_dead = any(not letter.skipped for letter in listed.items)
    everything = Offer(REDRIVE, {"all": True, "queue": queue}, when=has_dead, label="Deliver all again")
    return {
        "rows": rows,
        "after": after,
        "next": listed.next,
        "queue": queue,
        "queues": QUEUES,
        "redrive_all": await visit.offer(everything),
    }


PAGES = (
    Page(
        path="/dead-letters",
        title="Dead letters",
        view=list_dead_letters,
        template="dead_letters.html",
        action="relay.dead_letters",
        in_navigation=True,
        buttons=(REDRIVE, SKIP),
    ),
)
