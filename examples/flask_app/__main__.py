"""`python -m examples.flask_app [port]`."""

import sys

from examples.field_service.greeting import greet
from examples.flask_app import create_app

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8001
greet(port)
create_app().run(port=port, threaded=True)
