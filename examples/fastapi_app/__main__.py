"""`python -m examples.fastapi_app [port] [--host HOST]`."""

import uvicorn

from examples.fastapi_app import create_app
from examples.field_service.app import open_storage
from examples.field_service.greeting import address, greet

host, port = address("examples.fastapi_app", 8002)
greet(host, port)
uvicorn.run(create_app(open_storage()), host=host, port=port, log_level="warning")
