"""The cost of validating documents on PostgreSQL: one insert into a collection of an active record type, and
into one that is none, against the same action in an engine without change control."""

from __future__ import annotations

from functools import partial
from typing import Any

from returns.result import Result, Success
from uuid_utils import uuid7

from actionengine import ActionContext, ActionError, Actor, RequestContext, create_action, create_engine, create_service
from actionengine.changes import change_control_services
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks.postgres import database
from benchmarks.report import Row
from benchmarks.timing import take_samples
from benchmarks.workers import WARM_UP, in_threads

_CALLS = 40
"""In one slice."""

_FIELDS = [
    {"name": "job", "type": "string", "required": True},
    {"name": "amount", "type": "number", "required": True},
    {"name": "due", "type": "date"},
]
_DOCUMENT = {"job": "17", "amount": 50.0, "due": "2030-01-01"}


def run(seconds: float) -> list[Row]:
    """With a record type, and with none."""
    with database() as made:
        storage = PostgresStorage(made.app_url, pool_size=1, max_overflow=0)
        ann = Actor.human("ann", permissions=["changes.*"])
        request = RequestContext(storage.create_tenant(slug=f"acme-{uuid7()}", name="Acme"), ann)
        put = create_service(
            name="documents",
            description="Documents",
            actions=[create_action(name="put", description="Insert one", handler=_put)],
        )
        plain = create_engine(services=[put], storage=storage)
        guarded = create_engine(services=[*change_control_services(), put], storage=storage)

        def do(service: str, action: str, payload: Any) -> Any:
            return guarded.execute_action(service, action, payload, request).unwrap()

        project = do("projects", "create", {"name": "Bench"})
        do("record_types", "create", {"project_id": project.id, "key": "typed", "schema": {"fields": _FIELDS}})
        do("record_types", "activate", {"project_id": project.id, "key": "typed"})
        contenders = {
            name: partial(engine.execute_action, "documents", "put", collection, request)
            for name, engine, collection in (
                ("plain", plain, "typed"),
                ("typed", guarded, "typed"),
                ("untyped", guarded, "untyped"),
            )
        }
        for call in contenders.values():
            in_threads([call], WARM_UP)
        times = take_samples({name: partial(in_threads, [call], _CALLS) for name, call in contenders.items()}, seconds)
        storage.close()
    return [
        Row(
            f"document_guard_{name}",
            f"an insert into a collection {what}",
            "in an engine without change control",
            times[name],
            times["plain"],
        )
        for name, what in (("typed", "of an active record type"), ("untyped", "that is no record type's"))
    ]


def _put(collection: str, ctx: ActionContext) -> Result[str, ActionError]:
    return Success(ctx.records(collection).insert(_DOCUMENT).id)
