"""`python -m examples.mcp_server` over stdio, `python -m examples.mcp_server --http [--port PORT]` over HTTP."""

import argparse
import asyncio
import os
import secrets
import sys
from contextlib import suppress

import uvicorn
from mcp.server import Server
from mcp.server.auth.settings import AuthSettings
from mcp.server.stdio import stdio_server
from pydantic import AnyHttpUrl

from examples.field_service.app import create_business, open_storage
from examples.mcp_server import Tokens, create_http_server, create_stdio_server

SAMPLES = (("acme", "carla"), ("acme", "maria"), ("globex", "carla"))
"""The tenants and people that get a token at the start."""


async def serve_stdio(server: Server) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(server: Server, host: str, port: int) -> None:
    url = f"http://{host}:{port}/mcp"
    tokens = Tokens(os.environ.get("MCP_SECRET") or secrets.token_hex(32), url)
    auth = AuthSettings(
        issuer_url=AnyHttpUrl(f"http://{host}:{port}"),
        resource_server_url=AnyHttpUrl(url),
        validate_token_resource=True,
    )
    app = server.streamable_http_app(host=host, token_verifier=tokens, auth=auth)
    print(f"Agents connect to {url} with a bearer token, valid for eight hours:\n", file=sys.stderr)
    for tenant, person in SAMPLES:
        print(f"  {tenant}/{person}  {tokens.sign(tenant, person)}", file=sys.stderr, flush=True)
    await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()


parser = argparse.ArgumentParser(prog="python -m examples.mcp_server")
parser.add_argument("--http", action="store_true", help="serve streamable HTTP instead of stdio")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8003)
chosen = parser.parse_args()
storage = open_storage()
engine = create_business(storage)
with suppress(KeyboardInterrupt):
    if chosen.http:
        asyncio.run(serve_http(create_http_server(engine, storage), chosen.host, chosen.port))
    else:
        asyncio.run(serve_stdio(create_stdio_server(engine, storage)))
