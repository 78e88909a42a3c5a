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
from starlette.types import ASGIApp, Receive, Scope, Send

from actionengine.concurrency.abandonable import def_in_threads
from actionengine.console.callers import Callers, Identify
from actionengine.console.commands import Commands, return_address
from actionengine.console.errors import ErrorPage, error_page, refusal_text
from actionengine.console.flash import read_flash, remove_flash
from actionengine.console.live import Live
from actionengine.console.page import Page
from actionengine.console.pages import PAGES
from actionengine.console.rendering import render
from actionengine.console.security import check_origins, with_security_headers
from actionengine.console.static_files import StaticFiles
from actionengine.console.visit import Visit, split
from actionengine.context import RequestContext
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.pipeline.plan import SYNC_AND_ASYNC
from actionengine.storage.errors import StorageUnavailable
from actionengine.text.names import shortened

logger = logging.getLogger("actionengine")

_Respond: TypeAlias = Callable[[Visit], Awaitable[Response]]


def create_console(
    engine: Engine,
    identify: Identify | None = None,
    *,
    title: str = "actionengine",
    allowed_origins: Iterable[str] = (),
) -> Console:
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
        ConfigurationError: without an engine or an `identify` that can be called, and for an origin that is none.
    """
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"create_console(engine, identify) needs an Engine first, not {engine!r}")
    if identify is None:
        raise ConfigurationError(
            "create_console(engine, identify) needs identify: a function that returns the RequestContext of a request, "
            "or None for a caller that is not signed in"
        )
    return Console(engine, _Application(engine, identify, title, check_origins(allowed_origins)).asgi())


class Console:
    """The ASGI application that `create_console` returns, with the engine whose actions it executes."""

    def __init__(self, engine: Engine, app: ASGIApp) -> None:
        self.engine = engine
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request."""
        await self._app(scope, receive, send)


class _Application:
    def __init__(self, engine: Engine, identify: Identify, title: str, allowed_origins: frozenset[str]) -> None:
        def has(action: str) -> bool:
            # A host may have a service `changes` or `workflows` of its own, which is another thing.
            found = engine.get_action(*split(action))
            return isinstance(found, Success) and hasattr(found.unwrap().handler, SYNC_AND_ASYNC)

        self._engine = engine
        self._static = StaticFiles()
        self._title = title
        pages = [page for page in PAGES if page.action is None or has(page.action)]
        self._absent = [page for page in PAGES if page not in pages]
        self._pages = [(page, Route(page.path, self._endpoint(self._show(page)), methods=["GET"])) for page in pages]
        buttons = {button.action: button for page in pages for button in page.buttons if has(button.action)}
        self._commands = Commands(buttons, allowed_origins)
        reads = [action for page in pages for action in (page.action, *page.reads) if action is not None]
        self._callers = Callers(engine, identify, [*filter(has, reads), *buttons])
        self._live = Live(engine, self._callers.visit_of)

    def asgi(self) -> ASGIApp:
        """Return the ASGI application."""
        app = Starlette(
            routes=[
                Route("/static/{hash}/{name}", self._show_static, methods=["GET"]),
                Route("/live", self._endpoint(self._live.stream), methods=["GET"]),
                Route("/live/poll", self._endpoint(self._live.poll), methods=["GET"]),
                Route("/do/{service}/{action}", self._endpoint(self._press), methods=["POST"]),
                *(route for _, route in self._pages),
                *(Route(page.path, self._endpoint(_show_absent(page)), methods=["GET"]) for page in self._absent),
            ],
            exception_handlers={HTTPException: self._on_no_route},
        )
        app.router.redirect_slashes = False
        return with_security_headers(app)

    def _endpoint(self, respond: _Respond) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            token = def_in_threads.set(True)
            visit = self._anonymous(request)
            try:
                visit = await self._callers.visit_of(request)
                return await respond(visit)
            except ErrorPage as error:
                return self._show_error(visit, error)
            except ActionError as error:
                return self._show_error(visit, error_page(error))
            except StorageUnavailable:
                # Live pages look at the storage outside of an action.
                unavailable = ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable: retry later")
                return self._show_error(visit, error_page(unavailable))
            except Exception:
                logger.exception("the console raised an error for %r", shortened(request.scope["path"]))
                return self._show_error(visit, ErrorPage(500, "The page failed", "The server's log says why."))
            finally:
                def_in_threads.reset(token)

        return endpoint

    def _show(self, page: Page) -> _Respond:
        async def show(visit: Visit) -> Response:
            return await self._render(page, visit)

        return show

    async def _render(self, page: Page, visit: Visit, problem: ErrorPage | None = None) -> Response:
        """Return a page, with the problem of a pressed button at its top."""
        if page.action is not None and page.action not in visit.may:
            raise await self._forbidden(page.action, visit)
        live = await self._live.variables(visit) if page.live else None
        variables = await page.view(visit)
        if isinstance(variables, Response):
            return variables
        # A region that is read again does not show what was done: the whole page does.
        is_region = "hx-request" in visit.request.headers
        done = read_flash(visit.request, self._commands.buttons) if not is_region else None
        shared = {**self._layout(visit, page.title), "live": live, "problem": problem, "done": done, **variables}
        response = HTMLResponse(render(page.template, shared))
        if is_region:
            # No other response has this header, so that an error, or the login page of the host, replaces no region.
            response.headers["hx-reswap"] = "outerMorph"
        problem = shared["problem"]
        if problem is not None:
            response.status_code = problem.status
            response.headers.update(problem.headers)
        if done is not None:
            remove_flash(visit, response)
        return response

    async def _forbidden(self, action: str, visit: Visit) -> ErrorPage:
        needed = self._engine.get_action(*split(action)).unwrap().permission
        answer = await self._engine.can_async(visit.context, *split(action))
        if isinstance(answer, Failure):
            raise answer.failure()
        reads = f"It reads {action}. " if needed is None else ""
        return ErrorPage(403, "You may not open this page", reads + refusal_text(needed, answer.unwrap().reason))

    async def _press(self, visit: Visit) -> Response:
        button, form = await self._commands.read(visit)
        try:
            preview = await self._commands.preview(button, form, visit)
            if preview is None:
                return await self._commands.execute(button, form, visit)
            problem = None
        except ActionError as error:
            preview, problem = None, error_page(error)
        # The page of the form shows the present state, with the preview or the error.
        for page, route in self._pages:
            scope = _scope_of(visit.request, return_address(form))
            match, parameters = route.matches(scope)
            if match is Match.FULL:
                request = Request({**scope, **parameters})
                back = Visit(self._engine, request, visit.context, visit.may, form, preview)
                try:
                    return await self._render(page, back, problem)
                except (ActionError, ErrorPage) as error:
                    raise problem or error from None
        raise problem or _not_found()

    async def _show_static(self, request: Request) -> Response:
        return self._static.respond(request) or self._show_error(self._anonymous(request), _not_found())

    async def _on_no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        visit = self._anonymous(request)
        if not visit.path:
            # The console is mounted, and the address ends with its prefix.
            return RedirectResponse(visit.url("/"), 308)
        if error.status_code == 404:
            return self._show_error(visit, _not_found())
        # Only a wrong method is left of what the router raises.
        allowed = (error.headers or {})["Allow"]
        page = ErrorPage(405, "Not this way", f"This address takes {allowed} only.", {"allow": allowed})
        return self._show_error(visit, page)

    def _show_error(self, visit: Visit, error: ErrorPage) -> Response:
        html = render("error.html", {**self._layout(visit, error.title), "error": error})
        return HTMLResponse(html, error.status, headers=dict(error.headers))

    def _anonymous(self, request: Request) -> Visit:
        """Return the visit of a caller that is not identified."""
        return Visit(self._engine, request, RequestContext(None), frozenset())

    def _layout(self, visit: Visit, title: str) -> Mapping[str, Any]:
        """Return the variables of the layout."""
        links = [page for page, _ in self._pages if page.in_navigation and visit.may_open(page.action)]
        return {
            "visit": visit,
            "url": visit.url,
            "site": self._title,
            "static": self._static.path,
            "title": title,
            "links": links,
            "section": "/" + visit.path.split("/")[1] if visit.path else "",
            "live": None,
            "problem": None,
            "done": None,
        }


def _show_absent(page: Page) -> _Respond:
    """Return the answer for a page whose service the engine does not have."""

    async def show(visit: Visit) -> Response:
        message = f"It needs the action {page.action} of actionengine, and this application does not have it."
        raise ErrorPage(404, "There is no such page here", message)

    return show


def _scope_of(request: Request, address: str) -> dict[str, Any]:
    """Return the scope of a request for another page of the console."""
    path, _, query = address.partition("?")
    root = request.scope.get("root_path", "")
    return {**request.scope, "method": "GET", "path": root + unquote(path), "query_string": query.encode()}


def _not_found() -> ErrorPage:
    return ErrorPage(404, "There is no such page", "The address is wrong, or the thing does not exist.")
