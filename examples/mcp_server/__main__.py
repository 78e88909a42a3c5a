"""`python -m examples.mcp_server` over stdio, `python -m examples.mcp_server --http [--port PORT]` over HTTP."""

import argparse
import asyncio
import os
import secrets
import sys
from contextlib import suppress

import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server

from examples.field_service.app import create_business, open_storage
from examples.mcp_server import Tokens, create_http_app, create_stdio_server

SAMPLES = (("acme", "carla"), ("acme", "maria"), ("globex", "carla"))
"""The tenants and people that get a token at the start."""


async def serve_stdio(server: Server) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def greet(tokens: Tokens) -> None:
    """Print tokens to try."""
    print(f"Agents connect to {tokens.server_url} with a bearer token, valid for eight hours:\n", file=sys.stderr)
    for tenant, person in SAMPLES:
        print(f"  {tenant}/{person}  {tokens.sign(tenant, person)}", file=sys.stderr, flush=True)


parser = argparse.ArgumentParser(prog="python -m examples.mcp_server")
parser.add_argument("--http", action="store_true", help="serve streamable HTTP instead of stdio")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8003)
chosen = parser.parse_args()
storage = open_storage()
engine = create_business(storage)
with suppress(KeyboardInterrupt):
    if chosen.http:
        secret = os.environ.get("MCP_SECRET") or secrets.token_hex(32)
        tokens = Tokens(secret, f"http://{chosen.host}:{chosen.port}/mcp")
        greet(tokens)
        app = create_http_app(engine, storage, tokens)
        uvicorn.run(app, host=chosen.host, port=chosen.port, log_level="warning")
    else:
        asyncio.run(serve_stdio(create_stdio_server(engine, storage)))
