"""The business behind Flask: a synchronous host."""

import threading
from functools import partial
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from actionengine import ActionError, RequestContext
from actionengine.console import as_wsgi
from actionengine.http import MAX_BODY_BYTES, RequestRefused, payload_of, read_json, to_response
from examples.field_service.app import HostStorage, create_business
from examples.field_service.discovery import DISCOVERY, discover
from examples.field_service.documentation import document
from examples.field_service.feed import FEED_HEADERS, HEARTBEAT_INTERVAL, asked_of, open_feed
from examples.field_service.gateway import context_of, slug_of
from examples.field_service.operators import console_with_demo_login
from examples.field_service.routes import ROUTES


def create_app(storage: HostStorage, stopping: threading.Event, heartbeat: float = HEARTBEAT_INTERVAL) -> Flask:
    """Return a Flask application on a storage, which the caller closes. Live feeds end when `stopping` is set."""
    engine = create_business(storage)
    app = Flask(__name__)
    console = as_wsgi(console_with_demo_login(engine), engine)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/console": console})  # type: ignore[method-assign]

    def context() -> RequestContext:
        return context_of(request.headers, engine.resolve_tenant(slug_of(request.headers)))

    def serve(call: Any, /, service: str, action: str, **path: str) -> Response:
        ctx, body = context(), read_json(request.stream.read(MAX_BODY_BYTES + 1))
        return _respond(call(service, action, payload_of(path, request.args.to_dict(), body), ctx))

    def services(**names: str) -> Response:
        context()
        return _respond(discover(engine, **names))

    def add(rule: str, method: str, view: Any) -> None:
        app.add_url_rule(rule.replace("{", "<").replace("}", ">"), f"{method} {rule}", view, methods=[method])

    for route in ROUTES:
        add(route.path, route.method, partial(serve, engine.execute_action, route.service, route.action))
    for path in DISCOVERY:
        add(path, "GET", services)
    add("/api/{service}/{action}", "POST", partial(serve, engine.execute_action))
    add("/api/{service}/{action}/preview", "POST", partial(serve, engine.preview))

    @app.get("/events")
    def events() -> Response:
        messages = open_feed(engine, context(), asked_of(request.args, request.headers), stopping, heartbeat)
        return Response(messages, headers=FEED_HEADERS)

    app.add_url_rule("/openapi.json", "document", lambda: jsonify(document(engine, request.script_root)))
    app.add_url_rule("/health", "health", lambda: jsonify(data="ok"))

    @app.errorhandler(ActionError)
    @app.errorhandler(RequestRefused)
    def failed(error: ActionError | RequestRefused) -> Response:
        return _respond(error)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        response = _respond(RequestRefused(error.code or 500))
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    return app


def _respond(answer: Any) -> Response:
    response = to_response(answer)
    return Response(response.body, response.status, dict(response.headers))
