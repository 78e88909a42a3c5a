"""The message after a redirect: a cookie for one page names the button that was pressed."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from actionengine.console.buttons import Button
from actionengine.console.visit import Visit

_COOKIE = "actionengine_done"
_SECONDS = 60


def set_flash(visit: Visit, response: Response, action: str) -> None:
    """Make the next page say what the button of this action has done. The cookie names the action; the text is the
    button's own."""
    _set_cookie(visit, response, action, _SECONDS)


def read_flash(request: Request, buttons: Mapping[str, Button]) -> Button | None:
    """Return the button that was pressed before this page, if any."""
    return buttons.get(request.cookies.get(_COOKIE, ""))


def remove_flash(visit: Visit, response: Response) -> None:
    """Make this page the only one with the message."""
    _set_cookie(visit, response, "", 0)


def _set_cookie(visit: Visit, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        _COOKIE,
        value,
        max_age=seconds,
        path=visit.url("/"),
        httponly=True,
        samesite="strict",
        secure=visit.request.scope["scheme"] == "https",
    )
