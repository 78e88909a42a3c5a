"""The service `projects`, to which record types and changes belong."""

from __future__ import annotations

from functools import partial
from typing import Any

from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.changes.models import Project
from actionengine.changes.permissions import ChangeControlPermissions
from actionengine.changes.services.inputs import CreateProject, ProjectReference
from actionengine.changes.store import open_store, page
from actionengine.errors import ActionError, conflict
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Page


@sync_and_async
async def _create(data: CreateProject, ctx: InternalContext) -> Result[Project, ActionError]:
    store = open_store(ctx)
    if await store.projects.find({"name": data.name}, columns=("id",)):
        raise conflict(f"the tenant has a project {data.name!r} already: choose another name", name=data.name)
    project = {"id": store.new_id(), **data.model_dump(), "created_at": await store.now()}
    await store.projects.insert([project])
    ctx.add_subject(f"project/{project['id']}")
    return Success(Project(**project))


@sync_and_async
async def _get(data: ProjectReference, ctx: InternalContext) -> Result[Project, ActionError]:
    return Success(Project(**await open_store(ctx).project(data.project_id)))


@sync_and_async
async def _list(data: Page, ctx: InternalContext) -> Result[tuple[Project, ...], ActionError]:
    rows = await page(ctx, open_store(ctx).projects, {}, by="id", after=data.after, limit=data.limit)
    return Success(tuple(Project(**row) for row in rows))


def _subject(data: Any) -> str:
    return f"project/{data.project_id}"


def projects_service(permissions: ChangeControlPermissions) -> Service:
    """Return the service; its actions require these permissions."""
    reading = partial(declare, permission=permissions.read, read_only=True)
    return create_service(
        name="projects",
        description="Projects, each with its record types and changes",
        actions=[
            declare("create", "Create a project", _create, CreateProject, permission=permissions.manage),
            reading("get", "One project", _get, ProjectReference, resource=_subject),
            reading("list", "The tenant's projects, by id", _list, Page),
        ],
    )
