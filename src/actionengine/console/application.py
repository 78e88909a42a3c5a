"""The console as an ASGI application: its routes, and the way from a request to a page or an error page."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

from returns.result import Failure, Success
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from actionengine.concurrency.abandonable import def_in_threads
from actionengine.console.commands import Commands, return_address
from actionengine.console.errors import ErrorPage, error_page
from actionengine.console.flash import read_flash, remove_flash
from actionengine.console.page import Page
from actionengine.console.pages import PAGES
from actionengine.console.rendering import Templates
from actionengine.console.security import check_origins, with_security_headers
from actionengine.console.static_files import StaticFiles
from actionengine.console.visit import Visit, split
from actionengine.context import RequestContext
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.identification import CallerRefused, CallerUnknown, Identification, IdentifyCrashed

logger = logging.getLogger("actionengine")

SOURCE = "console"
"""The source of a request whose context names none of its own."""

Identify: TypeAlias = Callable[[Request], "RequestContext | Awaitable[RequestContext | None] | None"]
"""Makes the request context of a request; None for a caller that is not signed in. An exception refuses the request;
its text stays on the server."""


def create_console(
    engine: Engine,
    identify: Identify | None = None,
    *,
    title: str = "actionengine",
    allowed_origins: Iterable[str] = (),
) -> ASGIApp:
    """Return the console of an engine as an ASGI application. Mount it behind the login of the host.

    It has no users, sessions or database of its own: what it shows and does are governed actions of the engine,
    executed as the caller.

    Args:
        engine: the engine. Its actions run under the event loop of the server, `def` handlers in threads.
        identify: makes the request context of each request from a Starlette `Request`. It is an `async def`, or a
            `def`, which runs in a thread. None stands for a caller that is not signed in; an exception refuses the
            request.
        title: the name of the application, in the head of each page.
        allowed_origins: further origins of the console's pages, such as `https://ops.example.com`, where a proxy
            changes the `Host` header. The forms of other origins are refused.

    Raises:
        ConfigurationError: without an `identify` that can be called, and for an origin that is none.
    """
    if identify is None:
        raise ConfigurationError(
            "create_console(engine, identify) needs identify: a function that returns the RequestContext of a request, "
            "or None for a caller that is not signed in"
        )
    return _Console(engine, identify, title, check_origins(allowed_origins)).application()


class _Console:
    def __init__(self, engine: Engine, identify: Identify, title: str, allowed_origins: frozenset[str]) -> None:
        self._engine = engine
        self._identification = Identification(identify, SOURCE, (HTTPException,))
        self._static = StaticFiles()
        self._templates = Templates({"site": title, "static": self._static.path})
        self._pages = tuple(page for page in PAGES if page.action is None or _has(engine, page.action))
        self._routes = [
            Route(page.path, self._endpoint(self._show_page(page)), methods=["GET"]) for page in self._pages
        ]
        buttons = [button for page in self._pages for button in page.buttons if _has(engine, button.action)]
        self._commands = Commands({button.action: button for button in buttons}, allowed_origins)
        names = {page.action for page in self._pages} | {button.action for button in buttons}
        self._services = tuple(dict.fromkeys(split(name)[0] for name in sorted(filter(None, names))))

    def application(self) -> ASGIApp:
        """Return the ASGI application."""
        absent = [page for page in PAGES if page not in self._pages]
        app = Starlette(
            routes=[
                Route("/static/{hash}/{name}", self._show_static, methods=["GET"]),
                Route("/do/{service}/{action}", self._endpoint(self._press), methods=["POST"]),
                *self._routes,
                *(Route(page.path, self._endpoint(_show_absent(page)), methods=["GET"]) for page in absent),
            ],
            exception_handlers={HTTPException: self._on_http_exception},
        )
        app.router.redirect_slashes = False
        return with_security_headers(app)

    def _endpoint(self, respond: Callable[[Visit], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            token = def_in_threads.set(True)
            visit: Visit | None = None
            try:
                visit = await self._enter(request)
                return await respond(visit)
            except ErrorPage as error:
                return self._show_error(request, error, visit)
            except ActionError as error:
                return self._show_error(request, error_page(error), visit)
            except Exception:
                logger.exception("the console raised an error for %s", request.url.path)
                return self._show_error(request, ErrorPage(500, "The page failed", "The server's log says why."), visit)
            finally:
                def_in_threads.reset(token)

        return endpoint

    async def _enter(self, request: Request) -> Visit:
        """Return the visit of an identified caller. Raises `ErrorPage` or `ActionError`."""
        try:
            context = await self._identification.context_of(request, f"the console's {request.url.path}")
        except CallerUnknown:
            raise _refused(ErrorCode.UNAUTHENTICATED) from None
        except CallerRefused as refusal:
            raise _refused(refusal.code) from None
        except IdentifyCrashed:
            raise ErrorPage(500, "The page failed", "The application could not identify you.") from None
        listed = await self._engine.catalogue_async(context, self._services)
        if isinstance(listed, Failure):
            raise listed.failure()
        return Visit(self._engine, request, context, frozenset(each.name for each in listed.unwrap()))

    def _show_page(self, page: Page) -> Callable[[Visit], Awaitable[Response]]:
        async def show(visit: Visit) -> Response:
            return await self._render(page, visit)

        return show

    async def _render(self, page: Page, visit: Visit, problem: ErrorPage | None = None) -> Response:
        """Return a page, with the problem of a pressed button at its top."""
        if page.action is not None and page.action not in visit.may:
            raise await self._forbidden(page.action, visit)
        variables = await page.view(visit)
        if isinstance(variables, Response):
            return variables
        flash = read_flash(visit.request, self._commands.buttons)
        shared = {
            **self._layout(visit.request, visit, page.title),
            "page": page,
            "problem": problem,
            "done": flash.done if flash is not None else None,
            **variables,
        }
        problem = shared["problem"]
        html = self._templates.render(page.template, shared)
        response = HTMLResponse(html)
        if problem is not None:
            response.status_code = problem.status
            response.headers.update(problem.headers)
        if flash is not None:
            remove_flash(visit, response)
        return response

    async def _forbidden(self, action: str, visit: Visit) -> ErrorPage:
        needed = self._engine.get_action(*split(action)).unwrap().permission
        answer = await self._engine.can_async(visit.context, *split(action))
        if isinstance(answer, Failure):
            raise answer.failure()
        needs = f"It needs the permission {needed}." if needed is not None else f"It reads {action}."
        return ErrorPage(403, "You may not open this page", f"{needs} The answer was: {answer.unwrap().reason}.")

    async def _press(self, visit: Visit) -> Response:
        button, form = await self._commands.read(visit)
        try:
            return await self._commands.execute(button, form, visit)
        except ActionError as error:
            problem = error_page(error)
        # The page of the form shows the present state, and the error.
        found = self._find_page(visit.request, return_address(form))
        if found is None:
            raise problem
        page, request = found
        form["action"] = button.action
        back = Visit(self._engine, request, visit.context, visit.may, form)
        try:
            return await self._render(page, back, problem)
        except (ActionError, ErrorPage):
            raise problem from None

    def _find_page(self, request: Request, address: str) -> tuple[Page, Request] | None:
        """Return the page of an address, and the request for it."""
        path, _, query = address.partition("?")
        scope = {
            **request.scope,
            "method": "GET",
            "path": request.scope.get("root_path", "") + unquote(path),
            "query_string": query.encode(),
        }
        for page, route in zip(self._pages, self._routes, strict=True):
            match, parameters = route.matches(scope)
            if match is Match.FULL:
                return page, Request({**scope, **parameters})
        return None

    async def _show_static(self, request: Request) -> Response:
        return self._static.respond(request) or self._show_error(request, _NOT_FOUND)

    async def _on_http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        visit = self._nobody(request)
        if not visit.path:
            # The console is mounted, and the address ends with its prefix.
            return RedirectResponse(visit.url("/"), 308)
        if error.status_code == 404:
            return self._show_error(request, _NOT_FOUND)
        # Only a wrong method is left of what the router raises.
        allowed = (error.headers or {})["Allow"]
        page = ErrorPage(405, "Not this way", f"This address takes {allowed} only.", {"allow": allowed})
        return self._show_error(request, page)

    def _show_error(self, request: Request, error: ErrorPage, visit: Visit | None = None) -> Response:
        visit = visit or self._nobody(request)
        shared = self._layout(request, visit, error.title)
        html = self._templates.render("error.html", {**shared, "error": error})
        return HTMLResponse(html, error.status, headers=dict(error.headers))

    def _nobody(self, request: Request) -> Visit:
        """Return the visit of a caller that is not identified."""
        return Visit(self._engine, request, RequestContext(None), frozenset())

    def _layout(self, request: Request, visit: Visit, title: str) -> Mapping[str, Any]:
        """Return the variables of the layout."""
        links = [
            page for page in self._pages if page.in_navigation and (page.action is None or page.action in visit.may)
        ]
        return {
            "visit": visit,
            "url": visit.url,
            "title": title,
            "links": links if visit.context.tenant is not None else [],
            "section": "/" + visit.path.split("/")[1] if visit.path else "/",
        }


_NOT_FOUND = ErrorPage(404, "There is no such page", "The address is wrong, or the thing does not exist.")


def _refused(code: ErrorCode) -> ErrorPage:
    """Return the page for a caller that `identify` refused."""
    if code is ErrorCode.UNAUTHENTICATED:
        return ErrorPage(401, "Sign in first", "The application does not know who you are.")
    if code is ErrorCode.UNAVAILABLE:
        return error_page(ActionError(code, "The application could not identify you."))
    return ErrorPage(403, "You have no access", "The application refused your request.")


def _show_absent(page: Page) -> Callable[[Visit], Awaitable[Response]]:
    """Return the answer for a page whose service the engine does not have."""

    async def show(visit: Visit) -> Response:
        message = f"It needs the action {page.action}, and this application does not have it."
        raise ErrorPage(404, "There is no such page here", message)

    return show


def _has(engine: Engine, action: str) -> bool:
    return isinstance(engine.get_action(*split(action)), Success)
