"""Declarations of pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.responses import Response

from actionengine.console.buttons import Button
from actionengine.console.visit import Visit

View: TypeAlias = Callable[[Visit], Awaitable[Mapping[str, Any] | Response]]
"""Reads what a page shows, and returns the variables of its template; or a whole response. A `problem` among them, an
`ErrorPage`, stands at the top of the page, which gets its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the console.

    Attributes:
        path: its path below the root of the console, such as `/approvals/{id}`.
        title: its title; for a page in the navigation, also the text of the link.
        view: reads what it shows.
        template: the file of its template; empty where the view returns a response.
        action: the action that it reads, as `service.action`: a caller that may not execute it has no such page, and
            an engine without it neither. None for a page of every caller.
        reads: further actions that the view reads where the caller may (`visit.may`).
        live: the names on which regions of its template are read again (see `live.py`).
        in_navigation: whether the navigation has a link to it.
        buttons: the actions that it offers. The console executes no other ones.
    """

    path: str
    title: str
    view: View
    template: str = ""
    action: str | None = None
    reads: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    in_navigation: bool = False
    buttons: tuple[Button, ...] = ()
