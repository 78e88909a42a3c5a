"""The program of a child process with a `DurableHost`."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dbos import DBOS

from actionengine.durable.host import DurableFunction, DurableHost, Interrupted
from actionengine.errors import ConfigurationError

_stopping = threading.Event()


def append(path: str, line: str) -> str:
    with open(path, "a") as file:
        file.write(line + "\n")
    return line


def begin_and_wait(folder: str) -> int:
    """Record the process, and wait until the test releases it, or its process stops."""
    append(f"{folder}/begun", str(os.getpid()))
    while not Path(folder, "go").exists():
        if _stopping.is_set():
            raise Interrupted("this process stops")
        time.sleep(0.02)
    append(f"{folder}/done", str(os.getpid()))
    return os.getpid()


def main(options: dict[str, Any], test: Connection) -> None:
    queue = options["queue"]
    functions = [DurableFunction(each.__name__, each, queue) for each in (append, begin_and_wait)]
    host = DurableHost(
        options["url"],
        functions,
        lease=options.get("lease", 5.0),
        poll_interval=0.1,
        set_up=options.get("set_up", False),
    )
    if options.get("foreign"):
        DBOS(config={"name": "another", "system_database_url": options["url"], "log_level": "ERROR"})
        try:
            host.start()
        except ConfigurationError as error:
            test.send(str(error))
        DBOS.destroy()
        return
    with host:
        if options.get("twice"):
            try:
                DurableHost(options["url"], functions).start()
            except ConfigurationError as error:
                test.send(str(error))
        else:
            test.send("ready")
            test.recv()
        _stopping.set()
    if options.get("again"):
        _stopping.clear()
        host.start()
        test.send("ready")
        test.recv()
        host.stop(grace=0)
    left = [each.name for each in threading.enumerate() if each.name.startswith(("actionengine", "queue"))]
    test.send(f"ended {left}")
