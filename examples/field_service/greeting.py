"""The first thing that a person at a terminal sees."""


def greet(port: int) -> None:
    """Print commands to try."""
    url = f"http://127.0.0.1:{port}/api"
    print(f"""The field-service business is at {url}. Try, in another terminal:

  curl {url}/services -H 'x-tenant-id: acme'
  curl {url}/customers/create -H 'x-tenant-id: acme' -H 'x-user-id: carla' -d '{{"name": "Ada"}}'
  curl {url}/customers/list -H 'x-tenant-id: acme' -H 'x-agent-id: helper-bot' -d '{{}}'
  curl {url}/customers/list -H 'x-tenant-id: globex' -H 'x-user-id: carla' -d '{{}}'

People: carla (csr), tom (technician), maria (manager); helper-bot is an AI agent with the role csr.
""")
