"""The public names of actionengine.mcp; `_lazy.attach` reads this table."""

from actionengine.mcp.identity import Identify as Identify  # extra: mcp
from actionengine.mcp.identity import MCPRequest as MCPRequest  # extra: mcp
from actionengine.mcp.server import create_mcp_server as create_mcp_server  # extra: mcp
