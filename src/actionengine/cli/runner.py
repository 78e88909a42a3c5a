"""`actionengine runner ...`: workers for module work that callers put into a queue."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from time import sleep
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from actionengine.boundary.capabilities import PROFILES, CapabilityProfile
from actionengine.cli.common import example
from actionengine.cli.errors import fail
from actionengine.cli.workflows import AnswerTimeout, ConnectTimeout, DurableUrl, durable_engine

if TYPE_CHECKING:
    from actionengine.boundary.runner import BoundaryRunner

runner = typer.Typer(no_args_is_help=True, help="Work in modules.")

Modules = Annotated[
    Path,
    typer.Option(
        envvar="ACTIONENGINE_MODULES", help="The folder of the modules: FOLDER/<id of the tenant>/<id of the module>."
    ),
]
Profile = Annotated[str, typer.Option(help=f"The most that work may do: {', '.join(PROFILES)}.")]


@runner.callback()
def commands() -> None:
    """Work in modules."""


@runner.command(epilog=example("runner work --modules /srv/modules --profile CODE_MODULE_DEFAULT"))
def work(
    url: DurableUrl,
    modules: Modules,
    profile: Profile,
    kind: Annotated[
        str, typer.Option("--runner", help="subprocess (a process for each piece of work) or in-process.")
    ] = "subprocess",
    actions: Annotated[
        str, typer.Option(help="module:attribute of the module actions.")
    ] = "actionengine.boundary.module_actions:MODULE_ACTIONS",
    queue: Annotated[str, typer.Option(help="The queue of the requests.")] = "actionengine.modules",
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Requests that run at once.")] = 4,
    lease: Annotated[
        float,
        typer.Option(min=0.5, max=86400.0, help="Seconds without a sign of life after which a worker counts as dead."),
    ] = 10.0,
    grace: Annotated[
        float,
        typer.Option(min=0.0, max=86400.0, help="Seconds for running requests to end when the worker stops."),
    ] = 10.0,
    readable: Annotated[
        list[Path] | None,
        typer.Option(help="A path that commands may read and execute, besides their module and system paths; repeat."),
    ] = None,
    writable: Annotated[
        list[Path] | None,
        typer.Option(help="A path that commands of all tenants may change, such as a cache; repeat."),
    ] = None,
    require_file_isolation: Annotated[
        bool,
        typer.Option(help="Refuse commands if this system cannot keep them off files outside their module (Landlock)."),
    ] = False,
    set_up: Annotated[
        bool, typer.Option("--set-up/--no-set-up", help="Create the durable engine's tables if they do not exist.")
    ] = True,
    connect_timeout: ConnectTimeout = 5.0,
    answer_timeout: AnswerTimeout = 10.0,
) -> None:
    """Run requests until SIGINT or SIGTERM, then finish the running ones, or give them to another worker. A second
    signal ends the worker at once. Any number of workers can run."""
    # `module:attribute` may be in the working directory.
    sys.path.insert(0, "")
    if not modules.is_dir():
        fail(f"{str(modules)!r} is not a folder: give the folder of the modules as --modules")
    if not queue.strip():
        fail("the name of the queue is empty: give --queue")
    with durable_engine():
        from actionengine.boundary.remote.runner_worker import RunnerWorker
        from actionengine.boundary.roots import ModuleRoots

        if profile not in PROFILES:
            fail(f"there is no profile {profile!r}: give one of {', '.join(PROFILES)}")
        granted = CapabilityProfile(
            profile, PROFILES[profile].capabilities, require_file_isolation=require_file_isolation
        )
        behind = _runner(kind, granted, actions, readable or [], writable or [])
        worker = RunnerWorker(
            *(url, behind, ModuleRoots(modules)),
            queue=queue,
            concurrency=concurrency,
            lease=lease,
            set_up=set_up,
            connect_timeout=connect_timeout,
            answer_timeout=answer_timeout,
        )
        told_to_stop = _signalled()
        worker.start()
        typer.echo(f"the worker {worker.id} takes requests from {queue}", err=True)
        # `Event.wait` would hold a lock that the signal handler needs.
        while not told_to_stop.is_set():
            sleep(0.1)
        worker.stop(grace)
    # A handler that does not end would delay the end of this process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _runner(
    kind: str, profile: CapabilityProfile, actions: str, readable: list[Path], writable: list[Path]
) -> BoundaryRunner:
    from actionengine.boundary.child import actions_at
    from actionengine.boundary.in_process import InProcessRunner
    from actionengine.boundary.subprocess_runner import SubprocessRunner

    if kind == "subprocess":
        return SubprocessRunner(profile, actions, readable=readable, writable=writable)
    if kind != "in-process":
        fail(f"there is no runner {kind!r}: give subprocess or in-process")
    return InProcessRunner(profile, actions_at(actions), readable=readable, writable=writable)


def _signalled() -> threading.Event:
    """Return an event that the first signal to stop sets; a second signal ends the process."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopping
