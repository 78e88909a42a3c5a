"""`python -m examples.flask_app [port] [--host HOST]`."""

from examples.field_service.app import open_storage
from examples.field_service.greeting import address, greet
from examples.flask_app import create_app

host, port = address("examples.flask_app", 8001)
greet(host, port)
with open_storage() as storage:
    create_app(storage).run(host=host, port=port, threaded=True)
