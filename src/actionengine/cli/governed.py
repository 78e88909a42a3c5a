"""Governed commands: the options that they share, the engine that they use, and the actor that they name."""

from __future__ import annotations

import getpass
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any
from uuid import uuid4

import typer
from returns.result import Failure

from actionengine.bootstrap import create_engine
from actionengine.builtin.operators import OPERATOR, OPERATOR_PERMISSIONS
from actionengine.cli.common import Json, SigningKey, check_driver, check_exists, dialect_of, example, imported
from actionengine.cli.completion import complete_tenant
from actionengine.cli.errors import ExitCode, fail, refuse
from actionengine.cli.operator import Operator
from actionengine.context import Actor, ActorType, Tenant
from actionengine.engine import BlockingEngine, Engine
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.storage import SQLiteStorage

ACTORS: Mapping[str, ActorType] = {"human": "human", "integration": "integration", "ai": "ai"}
"""The types of actors that the command line acts as. A system actor would pass by all rules."""

EngineName = Annotated[
    str | None,
    typer.Option(
        envvar="ACTIONENGINE_ENGINE",
        help="module:attribute of the host's engine, or of a function that returns it; by default an engine of the "
        "library's own services, on --url.",
    ),
]
OptionalUrl = Annotated[
    str | None,
    typer.Option(
        envvar="ACTIONENGINE_URL",
        help="The database, as an operator's role: postgresql://user:password@host/database, or sqlite:///file",
    ),
]
TenantSlug = Annotated[
    str | None,
    typer.Option(
        autocompletion=complete_tenant, help="The slug of the tenant. Without it, a listing is of all tenants."
    ),
]
ActorName = Annotated[
    str | None,
    typer.Option(
        "--as", envvar="ACTIONENGINE_ACTOR", help="The acting actor, as human:ada; by default human:<login name>."
    ),
]
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        envvar="ACTIONENGINE_ROLES",
        help="A role of the actor; repeat. By default operator, and none for an AI.",
    ),
]
Permissions = Annotated[
    list[str] | None, typer.Option("--permission", help="A permission of the actor, such as payments.approve; repeat.")
]
Reason = Annotated[str | None, typer.Option(help="The reason, for the action log.")]


def governed(
    group: typer.Typer, name: str, *examples: str, hidden: bool = False, workflows: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command to a group, with the options that all governed commands share. Its function gets the `Operator`
    first. With `workflows`, an engine of the library's own services has those of workflows too."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        _, *shared = inspect.signature(open_operator, eval_str=True).parameters.values()

        def run(**given: Any) -> None:
            with open_operator(workflows, **{each.name: given.pop(each.name) for each in shared}) as operator:
                command(operator, **given)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        group.command(name, epilog=example(*examples), hidden=hidden)(run)
        return command

    return add


@contextmanager
def open_operator(
    workflows: bool,
    context: typer.Context,
    tenant: TenantSlug = None,
    actor: ActorName = None,
    role: Roles = None,
    permission: Permissions = None,
    reason: Reason = None,
    url: OptionalUrl = None,
    engine: EngineName = None,
    signing_key: SigningKey = None,
    json: Json = False,
) -> Iterator[Operator]:
    """Open the engine of a command for its operator, and close it in the end."""
    acting = acting_actor(actor, role, permission or ())
    if engine is not None and url is not None:
        sources = {name: context.get_parameter_source(name).name for name in ("engine", "url")}  # type: ignore[union-attr]
        if set(sources.values()) == {"COMMANDLINE"}:
            fail("--engine has a database of its own: leave out --url, or --engine", ExitCode.USAGE)
        # What is written on the command line goes before the environment.
        engine = engine if sources["url"] != "COMMANDLINE" else None
    with ExitStack() as stack:
        opened = stack.enter_context(
            _host_engine(engine) if engine is not None else _own_engine(url, signing_key, workflows)
        )
        door = stack.enter_context(opened.blocking()) if opened.mode == "async" else opened
        yield Operator(
            engine=opened,
            door=door,
            is_hosts_engine=engine is not None,
            actor=acting,
            reason=reason,
            request_id=f"cli-{uuid4()}",
            tenant=_resolve(door, tenant) if tenant is not None else None,
            json=json,
        )


def acting_actor(name: str | None, roles: Sequence[str] | None, permissions: Iterable[str]) -> Actor:
    """Return the actor of a command. Unless it names its roles, it is an operator; an AI has no role by default.

    The role `operator` gives its permissions, whatever roles a tenant has.
    """
    type, colon, id = (name if name is not None else f"human:{_login_name()}").partition(":")
    if not colon or type not in ACTORS or not id.strip():
        fail(f"--as is an actor as human:ada, integration:billing or ai:bot, not {name!r}", ExitCode.USAGE)
    held = tuple(roles) if roles else () if type == "ai" else (OPERATOR,)
    given = (*permissions, *(OPERATOR_PERMISSIONS if OPERATOR in held else ()))
    try:
        return Actor(ACTORS[type], id, held, given)
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        fail("this process has no login name: say who acts with --as human:NAME", ExitCode.USAGE)


def _resolve(door: Engine | BlockingEngine, slug: str) -> Tenant:
    result = door.resolve_tenant(slug)
    if isinstance(result, Failure):
        refuse(result.failure())
    return result.unwrap()


@contextmanager
def _host_engine(name: str) -> Iterator[Engine]:
    """Give the engine of a host. One that a function made for this command is closed with it."""
    found = imported(name)
    is_made = not isinstance(found, Engine) and callable(found)
    engine = found() if is_made else found
    if not isinstance(engine, Engine):
        if inspect.iscoroutine(engine):
            engine.close()
        fail(f"{name} is not an Engine, or a function that returns one: give its module:attribute", ExitCode.USAGE)
    try:
        yield engine
    finally:
        close = getattr(engine.storage, "close", None)
        if is_made and close is not None:
            close()


@contextmanager
def _own_engine(url: str | None, signing_key: str | None, workflows: bool) -> Iterator[Engine]:
    """Give an engine of the library's own services on a database, whose row-level security binds its role.

    Services of workflows route events to queues that nothing reads where a host has no workflows, so only commands for
    runs have them.
    """
    if url is None:
        fail("give the database as --url, or the host's engine as --engine", ExitCode.USAGE)
    if workflows:
        from actionengine.workflows import workflow_services

        services = workflow_services()
    else:
        from actionengine.changes import change_control_services

        services = change_control_services()
    with _open_storage(url, signing_key) as storage:
        yield create_engine(services=services, storage=storage)


def _open_storage(url: str, signing_key: str | None) -> SQLStorage:
    check_exists(url)
    if dialect_of(url) == "sqlite":
        return SQLiteStorage(url, protected=())
    check_driver()
    from actionengine.storage.postgres.checks import StrongRoleError
    from actionengine.storage.postgres.storage import PostgresStorage

    storage = PostgresStorage(url, signing_key=signing_key, protected=(), listens=False, prepared_statements=False)
    try:
        storage.check()
    except StrongRoleError as error:
        storage.close()
        fail(
            f"the role {error.role!r} is {error.strength}, and row-level security does not bind it: connect as an "
            f"operator's role. As the owner: CREATE ROLE operator LOGIN, then `actionengine db upgrade --operator-role "
            f"operator`",
            ExitCode.FORBIDDEN,
        )
    except StorageUnavailable as error:
        storage.close()
        fail(str(error), ExitCode.UNAVAILABLE)
    return storage
