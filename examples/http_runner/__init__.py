"""A runner over HTTP, as an example of your own runner: work runs on another machine, in its modules.

`HttpRunner` is the client, `create_app` the server. Requests are signed, and each is valid once.
"""

from examples.http_runner.client import HttpRunner
from examples.http_runner.server import create_app
from examples.http_runner.signing import Keys, Verifier

__all__ = ["HttpRunner", "Keys", "Verifier", "create_app"]
