"""`WorkflowRuntime`: a process that takes the steps of runs, on the durable engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from returns.result import Failure

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.durable.client import DurableClient
from actionengine.durable.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Bounds
from actionengine.durable.host import DurableFunction, DurableHost, utc
from actionengine.durable.watched import start_watched
from actionengine.engine import Engine
from actionengine.errors import ConfigurationError
from actionengine.events.consumers.consumer import TenantOf
from actionengine.events.publishers.fanout import Fanout, nobody
from actionengine.events.publishers.port import Publisher
from actionengine.events.relay.relay import Relay
from actionengine.workflows.runtime.publisher import WorkflowPublisher
from actionengine.workflows.runtime.run_executor import RolesOf, RunExecutor, StepActions
from actionengine.workflows.runtime.scheduler import EXECUTE_RUN, EXPIRE, FIRE, QUEUE, Scheduler, tenant_from
from actionengine.workflows.services.steps import SERVICE


class WorkflowRuntime:
    """Takes the steps of the runs of all tenants, in this process, beside any number of others.

    What moves runs on, and what triggers them, it relays by itself, from queues of their own: no broker of the host's
    holds a run up. Embedded, all is in one process, on SQLite files: `WorkflowRuntime(engine, relay_to=[…])` relays the
    host's events too, beside that. For many processes, each gets the URL of one PostgreSQL database; the code stays the
    same. A process that is killed is noticed by the others, or by itself when it starts again, and its runs go on.

    Handlers run in threads, as under `execute_action`; where the engine has an `async def` handler, under an event loop
    of the durable engine's, as under `execute_action_async`.

    Args:
        engine: with the services of `workflow_services()`.
        url: the durable engine's own tables: a PostgreSQL URL, or the path of a SQLite file.
        concurrency: runs that this process drives at once.
        roles: the roles of a workflow, by tenant and key: what its steps may do. Roles that are kept in storage for
            the actor `workflow:<key>` count too.
        tenant_of: the tenant of an id, for a host with a directory of its own.
        lease: seconds after which a process that is not heard of counts as dead.
        poll_interval: seconds between two looks at the queue.
        relay_to: publishers of the host's. Where they are given (none will do: `[]`), this process relays the host's
            events to these.
        relays: whether this process relays what moves runs on. Without, a relay elsewhere does, which has a
            `WorkflowPublisher`: where relays have a role of their own in the database.
        set_up: whether to make the durable engine's tables; without, `actionengine workflows upgrade` has.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and
            another one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for an engine without the services of workflows, a URL that is of neither kind, and numbers
            with which nothing would ever be taken.
    """

    def __init__(
        self,
        engine: Engine,
        url: str | os.PathLike[str] = "workflows.sqlite",
        *,
        concurrency: int = 16,
        roles: RolesOf | None = None,
        tenant_of: TenantOf | None = None,
        lease: float = 10.0,
        poll_interval: float = 0.2,
        relay_to: Iterable[Publisher] | None = None,
        set_up: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
        relays: bool = True,
    ) -> None:
        if isinstance(engine.get_action(SERVICE, "perform"), Failure):
            raise ConfigurationError(
                "the engine has no workflows: give create_engine services=[*workflow_services(), …]"
            )
        if roles is not None and not callable(roles):
            raise ConfigurationError(f"roles is a function of a tenant and a workflow's key, not {roles!r}")
        if concurrency < 1 or lease <= 0 or poll_interval <= 0:
            raise ConfigurationError("concurrency is at least 1, and lease and poll_interval are more than 0 seconds")
        bounds = Bounds(connect_timeout, answer_timeout)
        self.publisher = WorkflowPublisher(engine, url, tenant_of=tenant_of, roles=roles, **bounds._asdict())
        """What sets runs going, here or in another process. A relay of the host's need not have it."""
        self._relays: list[tuple[Relay, str]] = []
        if relays:
            # Another one than a relay of the host's may have, and stop.
            own = WorkflowPublisher(engine, url, tenant_of=tenant_of, roles=roles, **bounds._asdict())
            self._relays.append((Relay(engine.storage, own, queues=own.queues), "so that it sets no run going"))
        if relay_to is not None:
            publishers = tuple(relay_to)
            idle_relay = Relay(engine.storage, Fanout(*publishers) if publishers else nobody)
            self._relays.append((idle_relay, "so that the publishers in relay_to get none"))
        self._relaying: list[threading.Thread] = []
        self._client = DurableClient(url, bounds)
        self._stopping = threading.Event()
        self._agenda = Scheduler(self._client)
        self._storage = engine.storage
        self._driver = RunExecutor(StepActions(engine, roles), self._agenda, self._stopping)
        functions = _functions(self._driver, engine.mode, concurrency)
        options = {"lease": lease, "poll_interval": poll_interval, **bounds._asdict()}
        self._host = DurableHost(url, functions, set_up=set_up, **options)

    def start(self) -> None:
        """Begin to take steps.

        Raises `ConfigurationError` where the process has a durable engine already, and `DurableUnavailable` where that
        engine's database is out of reach, or not set up.
        """
        self._stopping.clear()
        self._host.start()
        for relay, consequence in self._relays:
            # The steps of runs that have been set going are taken meanwhile, and another process may relay.
            without = f"the runtime relays no events, {consequence}"
            self._relaying.append(start_watched(relay.run, "actionengine-relay", self._stopping, without))

    def stop(self, grace: float = 10.0) -> None:
        """End: each run stops after the step that it is at, and goes on in another process, or when this one starts
        again. A step that takes longer than `grace` seconds is left behind, and is taken anew."""
        # First: while the relays end, no further step is taken.
        self._stopping.set()
        if self._relaying:
            for relay, _ in self._relays:
                relay.stop()
            for relaying in self._relaying:
                relaying.join()
            self._relaying = []
        self._host.stop(grace)
        self._client.close()

    def restore(self, tenants: Iterable[Tenant] | None = None) -> int:
        """Ask the durable engine again for what runs and triggers wait for; how many runs were set going.

        All that a run is stands in the storage. Where the durable engine's tables are gone, or come from an older
        backup, this makes them anew. What is under way already stays as it is.

        Args:
            tenants: whose runs; those of the storage, where nothing is said.
        """
        whose = self._storage.list_tenants() if tenants is None else tenants
        return sum(self._agenda.restore(self._storage, tenant) for tenant in whose)

    def __enter__(self) -> WorkflowRuntime:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _functions(driver: RunExecutor, mode: Mode, concurrency: int) -> list[DurableFunction]:
    """The durable functions, in the world of an engine's handlers."""

    async def drive_run(tenant_id: str, slug: str, key: str, run_id: str, *later: Any) -> str:
        return await driver.execute_run(tenant_from(tenant_id, slug), key, run_id, mode, *later)

    async def expire(tenant_id: str, slug: str, key: str, approval_id: str, *later: Any) -> str:
        return await driver.expire(tenant_from(tenant_id, slug), key, approval_id, mode, *later)

    async def fire(at: str | datetime, context: Mapping[str, Any]) -> str:
        tenant = tenant_from(context["tenant_id"], context["slug"])
        later = [context["wait"]] if "wait" in context else []
        return await driver.fire_if_due(tenant, context["workflow_key"], context["trigger_id"], utc(at), mode, *later)

    functions: dict[str, Callable[..., Any]] = {EXECUTE_RUN: drive_run, EXPIRE: expire, FIRE: fire}
    if mode == "async":
        return [DurableFunction(name, function, QUEUE, concurrency) for name, function in functions.items()]
    return [DurableFunction(name, _in_thread(function), QUEUE, concurrency) for name, function in functions.items()]


def _in_thread(function: Any) -> Any:
    def run(*arguments: Any) -> Any:
        return run_sync(function(*arguments))

    return run
