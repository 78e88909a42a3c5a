"""The one route that writes: it executes the action of a button as the caller, once for each rendered form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from pydantic_core import from_json
from returns.result import Failure
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from actionengine.console.buttons import Button
from actionengine.console.errors import ErrorPage
from actionengine.console.flash import set_flash
from actionengine.console.security import is_cross_site
from actionengine.console.visit import Visit, field_name, split
from actionengine.pipeline.preview import Preview

MAX_BODY_BYTES = 1024 * 1024
"""Bytes of a form, at most."""

_MAX_FIELDS = 100
_MAX_ADDRESS = 2000
"""Characters of an address, which becomes a header: proxies refuse large ones."""
_FORM = "application/x-www-form-urlencoded"


class Commands:
    """Executes the actions of buttons."""

    def __init__(self, buttons: Mapping[str, Button], allowed_origins: Collection[str]) -> None:
        """`buttons` has the button of each action that the console offers; it executes no other action."""
        self.buttons = buttons
        self._allowed_origins = allowed_origins

    async def read(self, visit: Visit) -> tuple[Button, dict[str, str]]:
        """Return the button that was pressed, and its form. Raises `ErrorPage` for a form that is not one of this
        console."""
        request = visit.request
        if is_cross_site(request, self._allowed_origins):
            raise ErrorPage(403, "This form is not from here", "Another site sent it. Open the console and try again.")
        button = self.buttons.get("{service}.{action}".format(**request.path_params))
        if button is None:
            raise ErrorPage(404, "There is no such button", "The console does not offer this action.")
        form = await read_form(request)
        if not form.get("key"):
            raise ErrorPage(400, "The form is incomplete", "It has no key. Open the page again, and send its form.")
        form["action"] = button.action
        return button, form

    async def execute(self, button: Button, form: Mapping[str, str], visit: Visit) -> Response:
        """Execute the action of a button, and lead back to the page of its form. Raises `ActionError` for an action
        that failed."""
        context = replace(visit.context, idempotency_key=form["key"], plan=form.get("plan") or visit.context.plan)
        await visit.execute(button.action, _payload(button, form), context)
        response = RedirectResponse(visit.url_of(return_address(form)), 303)
        set_flash(visit, response, button.action)
        return response

    async def preview(self, button: Button, form: Mapping[str, str], visit: Visit) -> Preview | None:
        """Return what the action of a button would do; None for a form that asks for no preview. Raises its
        `ActionError`."""
        if not (button.has_preview and form.get("preview")):
            return None
        result = await visit.engine.preview_async(*split(button.action), _payload(button, form), visit.context)
        if isinstance(result, Failure):
            raise result.failure()
        return result.unwrap()


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; the last of two with one name. Raises `ErrorPage` for another body, and for one that
    is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise ErrorPage(415, "This is no form", f"The console takes {_FORM} only.")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ErrorPage(413, "The form is too large", f"A form has at most {MAX_BODY_BYTES} bytes.")
    except RuntimeError:
        # `identify` has read the form, and the request keeps it.
        return {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}
    except ClientDisconnect:
        raise ErrorPage(400, "The form is incomplete", "The connection ended within it.") from None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError:
        raise ErrorPage(400, "The form cannot be read", "Open the page again, and send its form.") from None


def return_address(form: Mapping[str, str]) -> str:
    """Return the address below the root of the console to which a form leads back; the overview for none."""
    address = form.get("return", "")
    steps = unquote(address.partition("?")[0]).replace("\\", "/").split("/")
    is_page = address.startswith("/") and len(address) <= _MAX_ADDRESS and not {".", ".."}.intersection(steps)
    return address if is_page else "/"


def _payload(button: Button, form: Mapping[str, str]) -> dict[str, Any]:
    """Return the payload of a form: that of the page, and what the operator filled in."""
    try:
        payload = from_json(form.get("payload", "{}"))
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise ErrorPage(400, "The form cannot be read", "Open the page again, and send its form.")
    filled = {field.name: form.get(field_name(field.name), "").strip() for field in button.fields}
    return {**payload, **{name: value.replace("\r\n", "\n") for name, value in filled.items() if value}}
