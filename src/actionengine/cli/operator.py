"""The operator of a command: an actor with a name, who executes governed actions, one for each tenant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import typer
from returns.result import Failure, Result, Success

from actionengine.builtin.operators import OPERATOR
from actionengine.cli.errors import ExitCode, exit_code, fail, refuse, report
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import BlockingEngine, Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.preview import Preview
from actionengine.storage.pages import MAX_PAGE

_MAX_PAGES = 20
"""Pages that a listing reads of one tenant: a page is short where few of the examined rows match."""


_SAME_FOR_ALL = (ErrorCode.UNAVAILABLE, ErrorCode.INVALID_INPUT)
"""Errors that each tenant would give: all are in the same storage, and get the same payload."""


@dataclass(frozen=True, slots=True)
class Found:
    """An item of a tenant, as its action returned it."""

    tenant: str
    item: Any


@dataclass(frozen=True, slots=True)
class Listing:
    """Items of one tenant or of all of them, in order. `next` is the cursor of the following items; None at the end.
    `code` is the exit code: not 0 if a tenant was refused."""

    items: tuple[Found, ...]
    next: str | None
    code: ExitCode


@dataclass(frozen=True, slots=True)
class Operator:
    """The actor of a command, the engine that it uses, and the tenant that it named; None for all of them."""

    engine: Engine
    door: Engine | BlockingEngine
    is_hosts_engine: bool
    actor: Actor
    reason: str | None
    request_id: str
    tenant: Tenant | None
    json: bool

    def tenants(self) -> Iterator[Tenant]:
        """Yield the named tenant, or all open ones by slug."""
        if self.tenant is not None:
            yield self.tenant
            return
        after = None
        while page := self._tenant_page(after):
            yield from page
            after = page[-1].slug

    def only_tenant(self) -> Tenant:
        """Return the named tenant, or the only one there is. Otherwise, end the program."""
        if self.tenant is not None:
            return self.tenant
        page = self._tenant_page(None)
        if len(page) != 1:
            found = "there is no tenant" if not page else "there are several tenants, and the id could be of any"
            fail(f"{found}: name its tenant with --tenant SLUG", ExitCode.USAGE)
        return page[0]

    def execute(self, tenant: Tenant, name: str, payload: Mapping[str, Any]) -> Any:
        """Execute the action `service.action` for a tenant. Return its `Result`."""
        return self.door.execute_action(*self._route(name), dict(payload), self._context(tenant))

    def do(self, tenant: Tenant, name: str, payload: Mapping[str, Any]) -> Any:
        """Execute an action for a tenant and return its value. If it fails, end the program."""
        result: Result[Any, ActionError] = self.execute(tenant, name, payload)
        if isinstance(result, Failure):
            self.refuse(result.failure(), tenant)
        return result.unwrap()

    def preview(self, tenant: Tenant, name: str, payload: Mapping[str, Any]) -> Result[Preview, ActionError]:
        """Return what an execution would write."""
        return self.door.preview(*self._route(name), dict(payload), self._context(tenant))

    def refuse(self, error: ActionError, tenant: Tenant) -> NoReturn:
        """Print the error of an action, and end with its exit code."""
        refuse(error, tenant.slug, self._hint(error))

    def find(self, name: str, payload: Mapping[str, Any]) -> tuple[Tenant, Any]:
        """Return the thing that an action finds in the named tenant, or in the first of all tenants that has it."""
        refusals: list[tuple[ActionError, Tenant]] = []
        for tenant in self.tenants():
            result: Result[Any, ActionError] = self.execute(tenant, name, payload)
            if isinstance(result, Success):
                return tenant, result.unwrap()
            refusals.append((result.failure(), tenant))
            if result.failure().code in _SAME_FOR_ALL:
                break
        others = [(error, tenant) for error, tenant in refusals if error.code is not ErrorCode.NOT_FOUND]
        for error, tenant in others:
            self._report(error, tenant)
        if others:
            raise typer.Exit(int(exit_code(others[0][0])))
        if not refusals:
            fail("there is no tenant", ExitCode.NOT_FOUND)
        refuse(refusals[0][0], self.tenant.slug if self.tenant is not None else None)

    def from_each(self, ask: Callable[[Tenant], Result[Any, ActionError]]) -> tuple[list[Found], ExitCode]:
        """Ask for the named tenant, or for each of all tenants. Return the values and the exit code. A refused tenant
        is named on stderr."""
        found: list[Found] = []
        code = ExitCode.SUCCESS
        for tenant in self.tenants():
            result = ask(tenant)
            if isinstance(result, Failure):
                self._report(result.failure(), tenant)
                code = code or exit_code(result.failure())
            else:
                found.append(Found(tenant.slug, result.unwrap()))
        return found, code

    def list_items(
        self,
        name: str,
        payload: Mapping[str, Any],
        *,
        limit: int,
        cursor: str | None,
        cursor_field: str = "after",
        key: Callable[[Any], str] = lambda item: str(item.id),
        newest_first: bool = True,
    ) -> Listing:
        """Return up to `limit` items that an action lists for the named tenant, or for all tenants, merged by `key`.

        A refused tenant is named on stderr. The items of the others are complete up to `next`.
        """
        found: list[Found] = []
        ends: list[str] = []
        code = ExitCode.SUCCESS

        def is_past(position: str, end: str) -> bool:
            return position < end if newest_first else position > end

        for tenant in self.tenants():
            page = self._read(tenant, name, payload, limit, cursor, cursor_field, key)
            if isinstance(page, ActionError):
                self._report(page, tenant)
                code = code or exit_code(page)
                continue
            items, end = page
            found += [Found(tenant.slug, item) for item in items]
            found.sort(key=lambda each: key(each.item), reverse=newest_first)
            if len(found) > limit:
                end = key(found[limit - 1].item)
                found = [each for each in found if not is_past(key(each.item), end)]
            if end is not None:
                ends.append(end)
        next = (max if newest_first else min)(ends) if ends else None
        if next is not None:
            found = [each for each in found if not is_past(key(each.item), next)]
        return Listing(tuple(found), next, code)

    def _read(
        self,
        tenant: Tenant,
        name: str,
        payload: Mapping[str, Any],
        limit: int,
        cursor: str | None,
        cursor_field: str,
        key: Callable[[Any], str],
    ) -> tuple[list[Any], str | None] | ActionError:
        """Return up to `limit` items of a tenant, and the cursor of those that follow; None at the end."""
        items: list[Any] = []
        for _ in range(_MAX_PAGES):
            asked = {**payload, cursor_field: cursor, "limit": limit - len(items)}
            result: Result[Any, ActionError] = self.execute(tenant, name, asked)
            if isinstance(result, Failure):
                error: ActionError = result.failure()
                return error
            page = result.unwrap()
            if isinstance(page, tuple):
                # These lists have no cursor of their own, and also end at a number of bytes: only an empty page is the
                # last.
                new, cursor = list(page), key(page[-1]) if page else None
            else:
                new, cursor = page.items, page.next
            items += new
            if cursor is None or len(items) >= limit:
                break
        return items, cursor

    def _report(self, error: ActionError, tenant: Tenant) -> None:
        if error.code in _SAME_FOR_ALL:
            self.refuse(error, tenant)
        report(error, tenant.slug, self._hint(error))

    def _hint(self, error: ActionError) -> str:
        is_operators = error.code is ErrorCode.FORBIDDEN and OPERATOR not in self.actor.roles
        return f" ({self.actor} acts without the role {OPERATOR}: see --role)" if is_operators else ""

    def _route(self, name: str) -> tuple[str, str]:
        service, _, action = name.partition(".")
        if isinstance(self.engine.get_action(service, action), Failure):
            fail(f"the engine has no action {name}: name an engine that has it, with --engine module:attribute")
        return service, action

    def _context(self, tenant: Tenant) -> RequestContext:
        return RequestContext(tenant, self.actor, source="cli", reason=self.reason, request_id=self.request_id)

    def _tenant_page(self, after: str | None) -> list[Tenant]:
        storage = self.engine.storage
        if isinstance(self.door, BlockingEngine):
            return list(self.door.wait_for(partial(storage.list_tenants_async, after=after, limit=MAX_PAGE)))
        return list(storage.list_tenants(after=after, limit=MAX_PAGE))
