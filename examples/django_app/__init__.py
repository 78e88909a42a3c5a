"""The business behind Django: a synchronous host without models."""

import threading
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from actionengine import ActionError, RequestContext
from actionengine.console import as_wsgi
from actionengine.http import MAX_BODY_BYTES, RequestRefused, action_routes, payload_of, read_json, to_response
from examples.django_app.project import Project
from examples.field_service.app import HostStorage, create_business
from examples.field_service.discovery import DISCOVERY, discover
from examples.field_service.documentation import document
from examples.field_service.feed import FEED_HEADERS, HEARTBEAT_INTERVAL, asked_of, open_feed
from examples.field_service.gateway import context_of, slug_of
from examples.field_service.operators import console_with_demo_login
from examples.field_service.routes import ROUTES


def create_app(storage: HostStorage, stopping: threading.Event, heartbeat: float = HEARTBEAT_INTERVAL) -> Any:
    """Return a WSGI application on a storage, which the caller closes. Live feeds end when `stopping` is set."""
    engine = create_business(storage)

    def context(request: HttpRequest) -> RequestContext:
        return context_of(request.headers, engine.resolve_tenant(slug_of(request.headers)))

    def serve(call: Any, service: str, action: str, request: HttpRequest, **path: str) -> HttpResponse:
        if "transfer-encoding" in request.headers:
            raise RequestRefused(411)  # Django takes such a body for an empty one.
        ctx, body = context(request), read_json(request.read(MAX_BODY_BYTES + 1))
        return _respond(call(service, action, payload_of(path, request.GET.dict(), body), ctx))

    def services(request: HttpRequest, **names: str) -> HttpResponse:
        context(request)
        return _respond(discover(engine, **names))

    def events(request: HttpRequest) -> StreamingHttpResponse:
        messages = open_feed(engine, context(request), asked_of(request.GET, request.headers), stopping, heartbeat)
        return StreamingHttpResponse(messages, headers=FEED_HEADERS)

    views: dict[str, dict[str, Any]] = {"/events": {"GET": events}}
    views["/openapi.json"] = {"GET": lambda request: JsonResponse(document(engine, request.META["SCRIPT_NAME"]))}
    views["/health"] = {"GET": lambda request: JsonResponse({"data": "ok"})}
    for method, path, *names in action_routes(engine):
        views[path] = {method: partial(serve, engine.execute_action, *names)}
        views[f"{path}/preview"] = {method: partial(serve, engine.preview, *names)}
    views |= {path: {"GET": services} for path in DISCOVERY}
    for method, path, *names in ROUTES:
        views.setdefault(path, {})[method] = partial(serve, engine.execute_action, *names)
    project = Project({path: partial(_dispatch, by_method) for path, by_method in views.items()})
    return DispatcherMiddleware(project, {"/console": as_wsgi(console_with_demo_login(engine), engine)})


def _dispatch(views: dict[str, Any], request: HttpRequest, **path: str) -> HttpResponse:
    if request.method not in views:
        return _respond(RequestRefused(405), allow=", ".join(views))
    try:
        return views[request.method](request, **path)
    except (ActionError, RequestRefused) as error:
        return _respond(error)


def _respond(answer: Any, **headers: str) -> HttpResponse:
    response = to_response(answer)
    return HttpResponse(response.body, status=response.status, headers={**response.headers, **headers})
