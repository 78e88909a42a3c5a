"""One request for a page: its caller, and the governed actions that are executed for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from returns.result import Failure
from starlette.requests import Request

from actionengine.console.buttons import Button, OfferedButton
from actionengine.context import RequestContext
from actionengine.engine import Engine


class Visit:
    """A request for a page, by an identified caller.

    Attributes:
        engine: the engine.
        request: the Starlette request.
        context: the request context that the host's `identify` returned.
        may: the actions of the console that the caller may execute on at least one resource, as `service.action`.
    """

    def __init__(self, engine: Engine, request: Request, context: RequestContext, may: frozenset[str]) -> None:
        self.engine = engine
        self.request = request
        self.context = context
        self.may = may

    async def read(self, action: str, payload: Mapping[str, Any] | None = None) -> Any:
        """Execute a governed read as the caller and return its value. Raises its `ActionError`, which becomes the error
        page."""
        return await self.execute(action, payload, self.context)

    async def execute(self, action: str, payload: Any, context: RequestContext) -> Any:
        """Execute a governed action and return its value. Raises its `ActionError`."""
        service, _, name = action.rpartition(".")
        result = await self.engine.execute_action_async(service, name, payload, context)
        if isinstance(result, Failure):
            raise result.failure()
        return result.unwrap()

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the query; None for one that is absent or empty."""
        return self.request.query_params.get(name) or None

    def path_parameter(self, name: str) -> str:
        """Return a parameter of the page's path, such as `id` in `/approvals/{id}`."""
        return str(self.request.path_params[name])

    def url(self, path: str, **query: object) -> str:
        """Return the URL of a path below the root of the console, such as `/approvals`. Parameters of None are left
        out."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        # Two slashes at the beginning would name another host.
        whole = "/" + quote(self.request.scope.get("root_path", "") + path, safe="/~:@!$&'()*+,;=").lstrip("/")
        return f"{whole}?{urlencode(given)}" if given else whole

    def page_url(self, **query: object) -> str:
        """Return the URL of this page with some parameters of its query replaced; None removes one."""
        return self.url(self.path, **{**self.request.query_params, **query})

    @property
    def path(self) -> str:
        """The path of this page below the root of the console."""
        path, root = self.request.scope["path"], self.request.scope.get("root_path", "")
        return str(path[len(root) :] if path.startswith(root) else path)

    def offer(self, button: Button, payload: Mapping[str, Any], *, when: bool = True) -> OfferedButton | None:
        """Return a button with its payload, for the template's macro; None where the caller may not press it.

        `when` holds the rules that the action has beside its permission, such as the state of the thing.
        """
        if not when or button.action not in self.may:
            return None
        return OfferedButton(button, json.dumps(payload), str(uuid4()))

    def with_key(self, key: str) -> RequestContext:
        """Return the caller's context with an idempotency key."""
        return replace(self.context, idempotency_key=key)


def offered(buttons: Sequence[OfferedButton | None]) -> list[OfferedButton]:
    """Return the buttons that the caller may press."""
    return [button for button in buttons if button is not None]
