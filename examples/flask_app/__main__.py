"""`python -m examples.flask_app [port] [--host HOST]`."""

from examples.field_service.wsgi_server import serve_wsgi
from examples.flask_app import create_app

serve_wsgi("examples.flask_app", 8001, create_app)
