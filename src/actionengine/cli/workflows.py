"""`actionengine workflows ...`: the database of the durable engine for workflows and workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from actionengine.cli.common import example
from actionengine.cli.errors import fail

workflows = typer.Typer(no_args_is_help=True, help="The durable engine for workflows and workers.")

DurableUrl = Annotated[
    str,
    typer.Option(
        envvar="ACTIONENGINE_DURABLE_URL",
        help="The durable engine's database: postgresql://user:password@host/database, or sqlite:///file",
    ),
]

ConnectTimeout = Annotated[
    float, typer.Option(min=0.1, max=3600.0, help="Seconds to wait for a connection to that database (PostgreSQL).")
]
AnswerTimeout = Annotated[
    float,
    typer.Option(min=0.1, max=86400.0, help="Seconds to wait for the answer to a statement there (PostgreSQL)."),
]


@workflows.callback()
def commands() -> None:
    """The durable engine for workflows and workers."""


@workflows.command(epilog=example("workflows upgrade --app-role app"))
def upgrade(
    url: DurableUrl,
    app_role: Annotated[
        str | None, typer.Option(help="Grant this role the rights of hosts and workers (PostgreSQL).")
    ] = None,
    connect_timeout: ConnectTimeout = 5.0,
    answer_timeout: AnswerTimeout = 600.0,
) -> None:
    """Create or upgrade the durable engine's tables, as their owner."""
    with durable_engine():
        from actionengine.durable import upgrade

        upgrade(url, app_role=app_role, connect_timeout=connect_timeout, answer_timeout=answer_timeout)
    print("the durable engine's tables are up to date")
    if app_role is not None:
        print(f"the role {app_role} has its grants")


@contextmanager
def durable_engine() -> Iterator[None]:
    """Silence the durable engine's own log in this block. If the engine is not installed, end the program."""
    try:
        from actionengine.durable import upgrade  # noqa: F401
    except ImportError as error:
        fail(f"the durable engine is not installed: {error}")
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    yield
