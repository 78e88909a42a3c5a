"""The console for operators, behind a login that is a demo: any visitor may be any person.

A real host leaves `DemoLogin` out. It mounts `create_console(engine, identify)`, where `identify` asks its own login.
"""

from collections.abc import Awaitable, Callable
from html import escape
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from actionengine import Engine, RequestContext
from actionengine.console import create_console
from examples.field_service.app import TENANTS
from examples.field_service.gateway import GatewayHeaders, context_of, slug_of

_CHOICES = {
    f"{tenant}.{person}": f"{person} of {name}"
    for tenant, name in TENANTS.items()
    for person in ("maria", "max", "carla", "tom")
}
_COOKIE = "demo_person"
_POLICY = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def console_with_demo_login(engine: Engine) -> ASGIApp:
    """Return the console of the business, with the page `/demo-login` in front of it."""
    console = create_console(engine, identify_with(engine), title="Field service")
    login = [Route("/demo-login", _choose, methods=["GET"]), Route("/demo-login", _sign_in, methods=["POST"])]
    return Starlette(routes=[*login, Mount("/", console)])


def identify_with(engine: Engine) -> Callable[[Request], Awaitable[RequestContext | None]]:
    """Return the function that tells who opens the console: the person of the cookie, else that of the headers."""

    async def identify(request: Request) -> RequestContext | None:
        tenant, _, person = request.cookies.get(_COOKIE, "").partition(".")
        headers: GatewayHeaders = {"x-tenant-id": tenant, "x-user-id": person} if person else request.headers
        return context_of(headers, await engine.resolve_tenant_async(slug_of(headers)))

    return identify


async def _choose(request: Request) -> Response:
    buttons = "".join(
        f'<p><button name="who" value="{who}">{escape(label)}</button>' for who, label in _CHOICES.items()
    )
    page = f'<title>Demo login</title><h1>Demo login</h1><form method="post">{buttons}</form>'
    return HTMLResponse(f'<!doctype html><html lang="en">{page}</html>', headers={"content-security-policy": _POLICY})


async def _sign_in(request: Request) -> Response:
    """Write the chosen person into a cookie. Nothing else is checked."""
    (who, *_) = parse_qs((await request.body()).decode("latin-1")).get("who", [""])
    root = request.scope["root_path"]
    if who not in _CHOICES:
        return RedirectResponse(f"{root}/demo-login", 303)
    response = RedirectResponse(f"{root}/", 303)
    response.set_cookie(_COOKIE, who, path=f"{root}/", httponly=True, samesite="strict")
    return response
