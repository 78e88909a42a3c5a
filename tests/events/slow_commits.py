"""Transactions that wait between the positions of their events and their commit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
from examples.embedded_postgres import Database

from actionengine import Engine, Tenant
from tests.events.stock import moved

_SLOW = """
CREATE FUNCTION public.take_your_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep((NEW.payload ->> 'takes')::float);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON public.ae_events DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.payload ->> 'takes' IS NOT NULL) EXECUTE FUNCTION public.take_your_time();
"""


def slow_commits(database: Database) -> None:
    """Slow down the commit of each event by the seconds in `takes` of its payload."""
    with psycopg.connect(database.owner_url) as owner:
        owner.execute(_SLOW)


def interleaved_moves(engine: Engine, tenant: Tenant, number: int) -> None:
    """Move items in eight threads; each third move commits late."""

    def work(index: int) -> None:
        late = {"takes": 0.03} if index % 3 == 0 else {}
        moved(engine, tenant, item=f"item-{index % 4}", by=index, **late)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(number)))
