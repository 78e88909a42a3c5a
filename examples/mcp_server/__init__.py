"""The business for agents: a server of the Model Context Protocol, over stdio and over HTTP."""

from mcp.server import Server
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette

from actionengine import Engine
from actionengine.mcp import Identify, create_mcp_server
from examples.field_service.app import HostStorage
from examples.mcp_server.identity import Tokens, identify_process, identify_token

SERVICES = ("customers", "jobs", "payments", "invoices", "approvals", "budgets")
"""The services that agents get. Administration of roles, record types and workflows is left to people."""

INSTRUCTIONS = """The office of a field-service company: customers, their jobs, payments and invoices. Amounts are in
cents. A result with the status pending_approval is no error: a manager has to decide. Ask approvals__get later."""


def create_stdio_server(engine: Engine, storage: HostStorage) -> Server:
    """Return a server for one desktop client: the environment of the process names tenant and person."""
    return _create_server(engine, storage, identify_process(engine))


def create_http_app(engine: Engine, storage: HostStorage, tokens: Tokens) -> Starlette:
    """Return an application for many clients: each request carries a bearer token."""
    url = AnyHttpUrl(tokens.server_url)
    issuer = AnyHttpUrl(tokens.server_url.removesuffix("/mcp"))
    return _create_server(engine, storage, identify_token(engine)).streamable_http_app(
        host=url.host or "",
        token_verifier=tokens,
        auth=AuthSettings(issuer_url=issuer, resource_server_url=url, validate_token_resource=True),
    )


def _create_server(engine: Engine, storage: HostStorage, identify: Identify) -> Server:
    return create_mcp_server(
        engine,
        identify,
        SERVICES,
        name="field-service",
        instructions=INSTRUCTIONS,
        lifespan=lambda server: storage,  # closed with the server
    )


__all__ = ["Tokens", "create_http_app", "create_stdio_server"]
