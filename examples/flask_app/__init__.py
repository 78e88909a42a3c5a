"""The business behind Flask: a synchronous host."""

import threading
from typing import Any

from flask import Flask, Response, jsonify, request
from returns.result import Failure, Result
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from actionengine import ActionError, RequestContext
from examples.field_service.app import HostStorage, create_business
from examples.field_service.feed import HEARTBEAT_INTERVAL, MEDIA_TYPE, NO_BUFFERING, feed, watch_of
from examples.field_service.routes import ROUTES, Route, payload_of
from examples.field_service.transport import (
    MAX_BODY,
    Answer,
    answer,
    describe,
    read_json,
    request_context,
    slug_of,
    transport_error,
)


def create_app(
    storage: HostStorage, stopping: threading.Event | None = None, heartbeat: float = HEARTBEAT_INTERVAL
) -> Flask:
    """Return a Flask application on a storage, which the caller closes. Live feeds end when `stopping` is set."""
    stops = stopping or threading.Event()
    app = Flask(__name__)
    # One byte more than the maximum, so that a body without a declared length is found to be too long.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1
    engine = create_business(storage)

    def context() -> Result[RequestContext, ActionError]:
        return slug_of(request.headers).bind(engine.resolve_tenant).bind(lambda t: request_context(request.headers, t))

    def execute(service: str, action: str, payload: Result[Any, ActionError]) -> Response:
        def run(ctx: RequestContext) -> Result[Any, ActionError]:
            return payload.bind(lambda given: engine.execute_action(service, action, given, ctx))

        return _respond(answer(context().bind(run)))

    @app.post("/api/<service>/<action>")
    def by_name(service: str, action: str) -> Response:
        return execute(service, action, _body())

    def serve(route: Route) -> None:
        def view(**path: str) -> Response:
            payload = _body().map(lambda body: payload_of(path, request.args.to_dict(), body))
            return execute(route.service, route.action, payload)

        rule = route.path.replace("{", "<").replace("}", ">")
        app.add_url_rule(rule, f"{route.service}.{route.action}", view, methods=[route.method])

    for route in ROUTES:
        serve(route)

    @app.get("/api/services")
    def services() -> Response:
        return _respond(answer(context().bind(lambda ctx: engine.get_services())))

    @app.get("/api/services/<service>")
    def actions(service: str) -> Response:
        return _respond(answer(context().bind(lambda ctx: engine.get_service_actions(service))))

    @app.get("/api/services/<service>/<action>")
    def action(service: str, action: str) -> Response:
        return _respond(answer(context().bind(lambda ctx: engine.get_action(service, action)).map(describe)))

    @app.get("/events")
    def events() -> Response:
        ctx = context()
        asked = watch_of(request.args, request.headers)
        watch = ctx.bind(lambda who: engine.execute_action("events", "watch", asked, who))
        if isinstance(watch, Failure):
            return _respond(answer(watch))
        messages = feed(engine, ctx.unwrap(), watch.unwrap(), stops, heartbeat)
        return Response(messages, mimetype=MEDIA_TYPE, headers=NO_BUFFERING)

    @app.get("/health")
    def health() -> Response:
        return _respond((200, {"data": "ok"}))

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        response = _respond(transport_error(error.code or 500, error.description or error.name))
        if isinstance(error, MethodNotAllowed):
            response.allow.update(error.valid_methods or ())
        return response

    return app


def _body() -> Result[Any, ActionError]:
    """Read the body as JSON, up to its maximum length."""
    body = request.get_data()
    if len(body) > MAX_BODY:
        raise RequestEntityTooLarge(f"the body is longer than {MAX_BODY} bytes")
    return read_json(body)


def _respond(given: Answer) -> Response:
    status, body = given
    response: Any = jsonify(body)
    response.status_code = int(status)
    assert isinstance(response, Response)
    return response
