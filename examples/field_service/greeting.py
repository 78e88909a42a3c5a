"""The terminal side of a host: its address, and commands to try."""

import argparse
import os


def address(program: str, port: int) -> tuple[str, int]:
    """Return host and port from the command line, else from `HOST` and `PORT`, else loopback and this port."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("port", nargs="?", type=int, default=os.environ.get("PORT", str(port)))
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    chosen = parser.parse_args()
    return chosen.host, chosen.port


def greet(host: str, port: int) -> None:
    """Print commands to try."""
    root = f"http://{host}:{port}"
    url = f"{root}/api"
    print(
        f"""The field-service business is at {url}. Try, in another terminal:

  curl {url}/services -H 'x-tenant-id: acme'
  curl {url}/customers/create -H 'x-tenant-id: acme' -H 'x-user-id: carla' -d '{{"name": "Ada"}}'
  curl {url}/customers/list -H 'x-tenant-id: acme' -H 'x-agent-id: helper-bot' -d '{{}}'
  curl {url}/customers/list -H 'x-tenant-id: globex' -H 'x-user-id: carla' -d '{{}}'
  curl {root}/openapi.json
  curl -N {root}/events -H 'x-tenant-id: acme' -H 'x-user-id: maria'

The console of its operators is at {root}/console/demo-login.
People: carla (csr), tom (technician), maria and max (managers); helper-bot is an AI agent with the role csr.
""",
        flush=True,
    )
