"""`python -m examples.flask_app [port] [--host HOST]`."""

import signal
import threading
from contextlib import nullcontext

from examples.field_service.app import create_business, open_storage, workflows_url
from examples.field_service.background import Background, is_wanted, named_publishers
from examples.field_service.greeting import address, greet
from examples.flask_app import create_app

stopping = threading.Event()


def stop(*_: object) -> None:
    stopping.set()
    raise KeyboardInterrupt


host, port = address("examples.flask_app", 8001)
greet(host, port)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
with open_storage() as storage:
    app = create_app(storage, stopping)
    background = Background(storage, create_business(storage), *named_publishers(), workflows=workflows_url())
    with background.in_thread() if is_wanted() else nullcontext():
        app.run(host=host, port=port, threaded=True)
