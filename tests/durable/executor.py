"""A `DurableHost` in a process of its own: `python -m tests.durable.executor '{"url": ...}'`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from dbos import DBOS

from actionengine.durable.host import DurableFunction, DurableHost, Interrupted
from actionengine.errors import ConfigurationError

_stopping = threading.Event()


def append(path: str, line: str) -> str:
    with open(path, "a") as file:
        file.write(line + "\n")
    return line


def begin_and_wait(folder: str) -> int:
    """Tell which process has begun, and wait until it is let go, or its process stops."""
    append(f"{folder}/begun", str(os.getpid()))
    while not Path(folder, "go").exists():
        if _stopping.is_set():
            raise Interrupted("this process stops")
        time.sleep(0.02)
    append(f"{folder}/done", str(os.getpid()))
    return os.getpid()


def main() -> None:
    options = json.loads(sys.argv[1])
    queue = options["queue"]
    functions = [DurableFunction(each.__name__, each, queue) for each in (append, begin_and_wait)]
    host = DurableHost(
        options["url"],
        functions,
        lease=options.get("lease", 5.0),
        poll_interval=0.05,
        set_up=options.get("set_up", False),
    )
    if options.get("foreign"):
        DBOS(config={"name": "another", "system_database_url": options["url"], "log_level": "ERROR"})
        try:
            host.start()
        except ConfigurationError as error:
            print(error)
        DBOS.destroy()
        return
    with host:
        if options.get("twice"):
            try:
                DurableHost(options["url"], functions).start()
            except ConfigurationError as error:
                print(error)
        else:
            print("ready")
            sys.stdin.readline()
        _stopping.set()
    if options.get("again"):
        _stopping.clear()
        host.start()
        print("ready")
        sys.stdin.readline()
        host.stop(grace=0)
    print("ended", [each.name for each in threading.enumerate() if each.name.startswith(("actionengine", "queue"))])


if __name__ == "__main__":
    main()
