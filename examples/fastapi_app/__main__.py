"""`python -m examples.fastapi_app [port] [--host HOST]`."""

from contextlib import suppress

import uvicorn

from examples.fastapi_app import create_app
from examples.fastapi_app.server import Server
from examples.field_service.app import open_storage, workflows_url
from examples.field_service.background import is_wanted
from examples.field_service.greeting import address, greet

host, port = address("examples.fastapi_app", 8002)
greet(host, port)
app = create_app(open_storage(), relay=is_wanted(), workflows=workflows_url())
with suppress(KeyboardInterrupt):
    Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).run()
