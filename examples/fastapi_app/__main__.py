"""`python -m examples.fastapi_app [port]`."""

import sys

import uvicorn

from examples.fastapi_app import create_app
from examples.field_service.greeting import greet

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8002
greet(port)
uvicorn.run(create_app(), port=port, log_level="warning")
