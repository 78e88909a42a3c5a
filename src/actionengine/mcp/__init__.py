"""A server of the Model Context Protocol: an engine's actions as tools for agents of any make. Needs the extra `mcp`.

    server = create_mcp_server(engine, identify)

`identify` makes the request context of each request. The result is the official SDK's `Server`: run it over stdio, or
serve `server.streamable_http_app()`.

`__init__.pyi` lists the public names. Each is loaded when it is first used.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
