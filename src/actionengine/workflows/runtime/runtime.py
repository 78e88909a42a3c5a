"""`WorkflowRuntime`: the process that advances runs, on the durable engine."""

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
from actionengine.workflows.runtime.run_executor import RunExecutor
from actionengine.workflows.runtime.scheduler import EXECUTE_RUN, EXPIRE, FIRE, QUEUE, Scheduler, tenant_from
from actionengine.workflows.runtime.step_actions import RolesOf
from actionengine.workflows.services.steps import SERVICE


class WorkflowRuntime:
    """Performs the steps of the runs of all tenants in this process. Any number of processes may do so.

    It relays the events that continue and trigger runs itself, from their own queues, so no broker of the host delays
    a run. Embedded in one process on SQLite files, `WorkflowRuntime(engine, relay_to=[…])` relays the host's events
    too. For several processes, give each the URL of one PostgreSQL database; the code stays the same. When a process
    is killed, the others notice, or it does itself when it starts again, and its runs continue.

    Handlers run in threads, as under `execute_action`. If the engine has an `async def` handler, they run under an
    event loop of the durable engine, as under `execute_action_async`.

    Args:
        engine: an engine with the services of `workflow_services()`.
        url: the database of the durable engine's own tables: a PostgreSQL URL, or the path of a SQLite file.
        concurrency: the number of runs that this process advances at once.
        roles: a function from a tenant and a workflow's key to the roles of the workflow, which permit its steps.
            Roles assigned to the actor `workflow:<key>` in the storage count too.
        tenant_of: a function from an id to its tenant, for a host with its own directory of tenants.
        lease: seconds after which a process that does not renew its lease counts as dead.
        poll_interval: seconds between two reads of the queue.
        relay_to: publishers of the host. If given, even as `[]`, this process relays the host's events to them.
        relays: whether this process relays the events that continue runs. Without, another relay has to, to a
            `WorkflowPublisher`. This is for relays with their own role in the database.
        set_up: whether to create the durable engine's tables. Without, run `actionengine workflows upgrade` first.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there. After that the connection counts as lost,
            and another one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for an engine without the services of workflows, a URL of neither kind, and numbers out of
            range.
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
            raise ConfigurationError(f"roles={roles!r} is not a function: give one of a tenant and a workflow's key")
        if concurrency < 1 or lease <= 0 or poll_interval <= 0:
            raise ConfigurationError(
                f"concurrency={concurrency}, lease={lease}, poll_interval={poll_interval}: concurrency has to be at "
                "least 1, lease and poll_interval more than 0 seconds"
            )
        bounds = Bounds(connect_timeout, answer_timeout)
        self.publisher = WorkflowPublisher(engine, url, tenant_of=tenant_of, roles=roles, **bounds._asdict())
        """The publisher that continues runs, in this process or another. The host's relay does not need it."""
        self._relays: list[tuple[Relay, str]] = []
        if relays:
            # The host may give `publisher` to a relay, which stops it.
            own = WorkflowPublisher(engine, url, tenant_of=tenant_of, roles=roles, **bounds._asdict())
            self._relays.append((Relay(engine.storage, own, queues=own.queues), "so it starts no run"))
        if relay_to is not None:
            publishers = tuple(relay_to)
            host_relay = Relay(engine.storage, Fanout(*publishers) if publishers else nobody)
            self._relays.append((host_relay, "so the publishers in relay_to get none"))
        self._relaying: list[threading.Thread] = []
        self._client = DurableClient(url, bounds)
        self._stopping = threading.Event()
        self._scheduler = Scheduler(self._client)
        self._storage = engine.storage
        executor = RunExecutor(engine, engine.mode, self._scheduler, roles=roles, stopping=self._stopping)
        functions = _functions(executor, engine.mode, concurrency)
        options = {"lease": lease, "poll_interval": poll_interval, **bounds._asdict()}
        self._host = DurableHost(url, functions, set_up=set_up, **options)

    def start(self) -> None:
        """Begin to perform steps.

        Raises `ConfigurationError` if the process has a durable engine already, and `DurableUnavailable` if that
        engine's database is unavailable or not set up.
        """
        self._stopping.clear()
        self._host.start()
        for relay, consequence in self._relays:
            # If it fails, the runs that are enqueued advance all the same, and another process may relay.
            without = f"the runtime relays no events, {consequence}"
            self._relaying.append(start_watched(relay.run, "actionengine-relay", self._stopping, without))

    def stop(self, grace: float = 10.0) -> None:
        """Stop each run after its current step. It continues in another process, or when this one starts again.

        A step that takes longer than `grace` seconds is abandoned, and performed anew.
        """
        # First, so that no step begins while the relays end.
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
        """Ask the durable engine again for what runs and triggers wait for. Return the number of runs enqueued.

        The storage has the whole state of a run. If the durable engine's tables are lost, or come from an older
        backup, call this to fill them again. Executions that are under way stay as they are.

        Args:
            tenants: the tenants of the runs; all tenants of the storage by default.
        """
        chosen = self._storage.list_tenants() if tenants is None else tenants
        return sum(self._scheduler.restore(self._storage, tenant) for tenant in chosen)

    def __enter__(self) -> WorkflowRuntime:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _functions(executor: RunExecutor, mode: Mode, concurrency: int) -> list[DurableFunction]:
    """Return the durable functions, in the mode of the engine's handlers."""

    async def execute_run(tenant_id: str, slug: str, key: str, run_id: str, *more: Any) -> str:
        return await executor.execute_run(tenant_from(tenant_id, slug), key, run_id, *more)

    async def expire(tenant_id: str, slug: str, key: str, approval_id: str, *more: Any) -> str:
        return await executor.expire(tenant_from(tenant_id, slug), key, approval_id, *more)

    async def fire(at: str | datetime, context: Mapping[str, Any]) -> str:
        tenant = tenant_from(context["tenant_id"], context["slug"])
        more = [context["wait"]] if "wait" in context else []
        return await executor.fire_if_due(tenant, context["workflow_key"], context["trigger_id"], utc(at), *more)

    functions: dict[str, Callable[..., Any]] = {EXECUTE_RUN: execute_run, EXPIRE: expire, FIRE: fire}
    if mode == "async":
        return [DurableFunction(name, function, QUEUE, concurrency) for name, function in functions.items()]
    return [DurableFunction(name, _in_thread(function), QUEUE, concurrency) for name, function in functions.items()]


def _in_thread(function: Any) -> Any:
    def run(*arguments: Any) -> Any:
        return run_sync(function(*arguments))

    return run
