"""`python -m examples.django_app [port] [--host HOST]`."""

from examples.django_app import create_app
from examples.field_service.wsgi_server import serve_wsgi

serve_wsgi("examples.django_app", 8004, create_app)
