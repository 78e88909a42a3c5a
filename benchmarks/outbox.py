"""Events that wait in the outbox, and a publisher that takes them: what the benchmarks of the relay begin with.

The events of a backlog are written once. Each round puts the same ones into the outbox again, so that nothing grows
while a benchmark runs, and every contender delivers the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from actionengine import Event
from benchmarks.postgres import Bench

BATCH = 500
"""The batch size of a relay, unless it is told another one."""

MAX_EVENTS = 10 * BATCH
"""In one round."""

EVENTS_OF_A_SUBJECT = 5

# By a superuser, past row-level security.
_FILL = """
INSERT INTO public.ae_events (tenant_id, id, type, subject, payload, action, action_id, actor_type, actor_id,
    occurred_at, version)
SELECT %(tenant)s, gen_random_uuid(), 'payments.refund', 'jobs/' || number %% %(subjects)s,
    '{"job": "17", "amount": 50.0}', 'payments.refund', gen_random_uuid(), 'human', 'clara', now(), 1
FROM generate_series(1, %(events)s) number
"""
# As the statement does that records an action.
_QUEUE = """
INSERT INTO public.ae_outbox (tenant_id, position, lane)
SELECT tenant_id, position,
    hashtextextended(coalesce(subject, id::text), uuid_hash_extended(tenant_id, 0)) & 9223372036854775807
FROM public.ae_events
WHERE tenant_id = %s
ORDER BY position
LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events of one tenant."""

    database: Bench
    tenant: UUID

    def queue(self, events: int) -> None:
        """So many of them wait in the outbox, which is as autovacuum leaves it."""
        with psycopg.connect(self.database.superuser_url, autocommit=True) as connection:
            connection.execute(_QUEUE, (self.tenant, events))
            # They come back, as what an operator redrives: a relay looks from the first position on.
            connection.execute("UPDATE ae_outbox_returns SET returns = returns + 1")
            connection.execute("VACUUM ANALYZE ae_outbox")


def backlog(database: Bench, subjects: int) -> Backlog:
    """As many events as a round takes at most, about so many subjects in turn."""
    tenant = uuid7()
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute(_FILL, {"tenant": tenant, "subjects": subjects, "events": MAX_EVENTS})
        connection.execute("VACUUM ANALYZE ae_events")
    return Backlog(database, tenant)


class Taker:
    """A publisher that does nothing with what it gets, for some seconds each time. It is called as others are: with
    100 events at most, of as many subjects."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    async def publish(self, events: Sequence[Event]) -> None:
        """Take events."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
