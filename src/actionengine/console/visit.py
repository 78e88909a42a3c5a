"""One request for a page: its caller, and the governed actions that are executed for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from returns.result import Failure
from starlette.requests import Request

from actionengine.console.buttons import Offer, ShownButton
from actionengine.console.errors import ErrorPage
from actionengine.context import RequestContext
from actionengine.engine import Engine
from actionengine.pipeline.preview import Preview

UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
POSITION = re.compile("[0-9]{1,9}")

NO_FORM: Mapping[str, str] = {}

_SAFE = "/~:@!$&'()*+,="
"""Characters that stay as they are in a path, besides letters, digits and `_.-`. A semicolon would end the path of a
cookie."""


class Visit:
    """A request for a page, by an identified caller.

    Attributes:
        engine: the engine.
        request: the Starlette request.
        context: the request context that the host's `identify` returned.
        may: the actions of the console that the caller may execute on at least one resource, as `service.action`.
        form: the form that was refused or previewed, if the page is shown because of it.
        preview: the preview that the page shows.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        context: RequestContext,
        may: frozenset[str],
        form: Mapping[str, str] = NO_FORM,
        preview: Preview | None = None,
    ) -> None:
        self.engine = engine
        self.request = request
        self.context = context
        self.may = may
        self.form = form
        self.preview = preview

    async def read(self, action: str, payload: Mapping[str, Any] | None = None) -> Any:
        """Execute a governed read as the caller and return its value. Raises its `ActionError`, which becomes the error
        page."""
        return await self.execute(action, payload, self.context)

    async def execute(self, action: str, payload: Any, context: RequestContext) -> Any:
        """Execute a governed action and return its value. Raises its `ActionError`."""
        result = await self.engine.execute_action_async(*split(action), payload, context)
        if isinstance(result, Failure):
            raise result.failure()
        return result.unwrap()

    async def offer(self, *offers: Offer) -> list[ShownButton]:
        """Return the buttons that the caller may press, of these, for the macro `button`."""
        kept = [each for each in offers if each.when and each.button.action in self.may]
        by_resource: dict[str, list[str]] = {}
        for each in kept:
            if each.resource is not None:
                by_resource.setdefault(each.resource, []).append(each.button.action)
        denied: set[tuple[str, str]] = set()
        for resource, actions in by_resource.items():
            answer = await self.engine.can_each(self.context, map(split, actions), resource, "async")
            if isinstance(answer, Failure):
                raise answer.failure()
            permissions = zip(actions, answer.unwrap(), strict=True)
            denied |= {(action, resource) for action, permission in permissions if not permission.allowed}
        return [self._show(each) for each in kept if (each.button.action, each.resource) not in denied]

    def _show(self, offer: Offer) -> ShownButton:
        button, payload = offer.button, json.dumps(offer.payload)
        is_back = self.form.get("payload") == payload and self.form.get("action") == button.action
        form = self.form if is_back else NO_FORM
        values = {field.name: form.get(field_name(field.name), "") for field in button.fields}
        plan = self.preview.plan if is_back and self.preview is not None else None
        return ShownButton(button, offer.label or button.label, payload, str(uuid4()), values, plan)

    def may_open(self, action: str | None) -> bool:
        """Return whether the caller may open the page of an action; of None, every caller that is identified."""
        return self.context.tenant is not None if action is None else action in self.may

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the query; None for one that is absent or empty."""
        return self.request.query_params.get(name) or None

    def cursor(self, name: str, form: re.Pattern[str] = UUID) -> str | None:
        """Return the cursor of a list, by default the UUID of an item; None for its first page. Raises `ErrorPage` for
        a value that no page has linked to."""
        given = self.parameter(name)
        if given is not None and not form.fullmatch(given):
            raise ErrorPage(400, "The address is not valid", f"Its {name} is not one of a page before. Begin again.")
        return given

    def path_parameter(self, name: str) -> str:
        """Return a parameter of the page's path, such as `id` in `/approvals/{id}`."""
        return str(self.request.path_params[name])

    def url(self, path: str, /, **query: object) -> str:
        """Return the URL of a path below the root of the console, such as `/approvals`. Parameters of None are left
        out."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self.url_of(quote(path, safe=_SAFE) + (f"?{urlencode(given)}" if given else ""))

    def url_of(self, address: str) -> str:
        """Return the URL of an address below the root of the console, as `address` gives it."""
        whole = quote(self.root, safe=_SAFE) + quote(address, safe=f"{_SAFE}%?")
        # Two slashes at the beginning would name another host.
        return "/" + whole.lstrip("/")

    def page_url(self, /, **query: object) -> str:
        """Return the URL of this page with some parameters of its query replaced; None removes one."""
        return self.url(self.path, **{**self.request.query_params, **query})

    @property
    def path(self) -> str:
        """The path of this page below the root of the console."""
        path: str = self.request.scope["path"]
        rest = path.removeprefix(self.request.scope.get("root_path", ""))
        return rest if not rest or rest.startswith("/") else path

    @property
    def address(self) -> str:
        """The path and the query of this page below the root of the console, quoted: a form leads back to it."""
        query = self.request.scope["query_string"].decode("latin-1")
        return quote(self.path, safe=_SAFE) + (f"?{query}" if query else "")

    @property
    def root(self) -> str:
        """The path under which the host has mounted the console, without a slash at its end."""
        return str(self.request.scope.get("root_path", "")).rstrip("/")


def split(action: str) -> tuple[str, str]:
    """Return the service and the action of a name such as `approvals.list`."""
    service, _, name = action.rpartition(".")
    return service, name


def field_name(name: str) -> str:
    """Return the name of a form's field for a field of the payload."""
    return f"field.{name}"
