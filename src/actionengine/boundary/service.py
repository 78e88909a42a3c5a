"""The service `modules`: module work as governed actions, which are authorized, idempotent, logged and published.

create_engine(services=[modules_service(InProcessRunner(CODE_MODULE_DEFAULT), ModuleRoots("/srv/modules").context)])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model
from pydantic_core import from_json
from returns.result import Failure, Result, Success

from actionengine.actions import Action, Service, create_action, create_service
from actionengine.boundary.capabilities import Capability
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.boundary.runner import Runner
from actionengine.context import Tenant
from actionengine.errors import ActionError
from actionengine.masking.masking import revealed_json
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.json_schemas import SchemaOf

ModuleOf = Callable[[Tenant, str], ModuleContext]
"""A function that returns a tenant's module by its id, as `ModuleRoots.context`, or raises `ActionError`."""

_CHANGING = frozenset({Capability.FS_WRITE, Capability.CMD_RUN, Capability.NET_HTTP})
_TOO_MUCH_FOR_THE_LOG = ("text", "base64", "stdout", "stderr", "diff", "entries")


@dataclass(frozen=True, slots=True)
class ModulePermissions:
    """The permission for each kind of module work; None needs none.

    `read` is for work that only reads or compares files, `write` for work that changes them, `run` for work that runs
    commands. A rule may name one module: `Rule("modules.write", "module/website")`.
    """

    read: str | None = "modules.read"
    write: str | None = "modules.write"
    run: str | None = "modules.run"


def modules_service(
    runner: Runner,
    module_of: ModuleOf,
    actions: Iterable[ModuleAction] = MODULE_ACTIONS,
    *,
    permissions: ModulePermissions | None = None,
    timeout: float = 10.0,
) -> Service:
    """Return the service `modules`, with an action for each module action, whose input also has the `module_id`.

    The tenant and the actor are those of the request; the capabilities are those that the module action needs. With an
    idempotency key, work that changes something takes effect once in its module.

    The work runs inside the action. If the action has an idempotency key, its transaction is open meanwhile, and on
    SQLite no other writer proceeds: use this for work of a few seconds.

    Args:
        runner: the runner of the work.
        module_of: a function that finds a tenant's module, such as `ModuleRoots(folder).context`.
        actions: the module actions; those of the library by default.
        permissions: the permissions that actors need; `modules.read`, `.write` and `.run` by default.
        timeout: the most seconds for one piece of work.
    """
    asked = permissions or ModulePermissions()
    return create_service(
        name="modules",
        description="Files and commands of modules, behind the execution boundary",
        actions=[_governed(each, runner, module_of, asked, timeout) for each in actions],
    )


def _governed(
    action: ModuleAction, runner: Runner, module_of: ModuleOf, permissions: ModulePermissions, timeout: float
) -> Action:
    changes = bool(action.capabilities & _CHANGING)

    @sync_and_async
    async def work(data: Any, ctx: InternalContext) -> Result[Any, ActionError]:
        if changes:
            ctx.begin_external_work("does work in a module")
        request = ExecutionRequest(
            tenant=ctx.tenant,
            module=module_of(ctx.tenant, data.module_id),
            action=action.name,
            input=_arguments(data),
            capabilities=action.capabilities,
            actor=ctx.actor,
            timeout=timeout,
            idempotency_key=ctx.derived_idempotency_key() if changes else None,
        )
        answer = runner.execute(request) if ctx.mode == "sync" else await runner.execute_async(request)
        if isinstance(answer, Failure):
            return answer
        output = answer.unwrap().output
        if isinstance(output, Mapping):
            ctx.set_logged_output({name: value for name, value in output.items() if name not in _TOO_MUCH_FOR_THE_LOG})
        return Success(output)

    if action.output is not None:
        described = Annotated[dict[str, Any], SchemaOf(action.output)]
        work.__annotations__["return"] = Result[described, ActionError]
    return create_action(
        name=action.name,
        description=action.description,
        handler=work,
        validation=_with_module(action),
        permission=_permission(action, permissions),
        resource=lambda data: f"module/{data.module_id}",
        read_only=not changes,
        destructive=changes,
    )


def _arguments(data: BaseModel) -> dict[str, Any]:
    """Return the input for the runner, with its secrets."""
    given: dict[str, Any] = from_json(
        revealed_json(data.model_dump(exclude={"module_id"}, exclude_unset=True, by_alias=True))
    )
    return given


def _with_module(action: ModuleAction) -> type[BaseModel]:
    """Return the input model of a module action, extended by the module's id."""
    module_id: Any = (str, Field(min_length=1, max_length=200, description="The id of the module."))
    return create_model(f"{action.validation.__name__}OfModule", __base__=action.validation, module_id=module_id)


def _permission(action: ModuleAction, permissions: ModulePermissions) -> str | None:
    if action.capabilities & {Capability.CMD_RUN, Capability.NET_HTTP}:
        return permissions.run
    return permissions.write if Capability.FS_WRITE in action.capabilities else permissions.read
