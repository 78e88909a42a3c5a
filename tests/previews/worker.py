"""A process that plays the campaign until it is killed: `python -m tests.previews.worker ORDER`."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

from actionengine import PostgresStorage, SQLiteStorage, Tenant, create_engine
from tests.previews.campaign import CELLS, SERVICE, Campaign


class Order(NamedTuple):
    """The database (an address, or a file), the tenant, the journal to write, and the seed."""

    database: str
    tenant_id: str
    slug: str
    journal: str
    seed: int


class Journaled(Campaign):
    """A campaign whose plans are on a journal before they are executed."""

    journal: Any

    def note(
        self, what: str, number: str, changes: Mapping[str, Any] | None = None, added: list[Any] | None = None
    ) -> None:
        """Write a line. The system has it even if this process is killed."""
        self.journal.write(json.dumps([what, number, changes, added]) + "\n")
        self.journal.flush()


APPLICATION = "killed-worker"
"""The name of the worker's connections to PostgreSQL."""


def open_storage(database: str) -> PostgresStorage | SQLiteStorage:
    """Open the storage of an address, or of a file."""
    if database.startswith("postgresql"):
        return PostgresStorage(database, application_name=APPLICATION)
    return SQLiteStorage(database)


def main(order: Order) -> None:
    """Play until the kill."""
    storage = open_storage(order.database)
    with storage, open(order.journal, "a", encoding="utf-8") as journal:
        tenant = Tenant(UUID(order.tenant_id), order.slug)
        campaign = Journaled(create_engine(services=[SERVICE], storage=storage), tenant, CELLS)
        campaign.journal = journal
        dice = random.Random(order.seed)
        for number in count():
            campaign.play(dice, f"{order.seed} {number}")


if __name__ == "__main__":
    main(Order(*json.loads(sys.argv[1])))
