"""A runner over HTTP, as an example of a runner of one's own: the work is done on another machine, in its modules.

`HttpRunner` is the side that asks, `create_app` the one that works. Requests are signed, and each is good once.
"""

from examples.http_runner.client import HttpRunner
from examples.http_runner.server import create_app
from examples.http_runner.signing import Keys, Verifier

__all__ = ["HttpRunner", "Keys", "Verifier", "create_app"]
