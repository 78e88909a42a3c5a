"""Module actions with mistakes of handlers. Both processes of a subprocess runner import them."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from actionengine.boundary.declarations import ModuleAction, create_module_action
from actionengine.boundary.files.paths import ModulePath
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.errors import ActionError, ErrorCode


class Input(BaseModel):
    """The input of these actions."""

    text: str = ""
    number: int = 0
    path: ModulePath = "file"


def echo(data: Input, work: ModuleHandle) -> Any:
    return {"text": data.text, "environment": sorted(os.environ), "process": os.getpid()}


def prints(data: Input, work: ModuleHandle) -> Any:
    print("printed", data.text)
    os.write(1, b"written\n")
    subprocess.run(("echo", "said"), check=True)
    sys.__stdout__.write("more\n")  # type: ignore[union-attr]
    return "answer"


def gives(data: Input, work: ModuleHandle) -> Any:
    return {
        "model": data,
        "object": object(),
        "infinite": math.inf,
        "long": "x" * data.number,
        "surrogate": "\ud800",
        "bytes": b"\xff",
    }[data.text]


def raises(data: Input, work: ModuleHandle) -> Any:
    if data.text:
        raise ActionError(ErrorCode(data.text), "as told", {"number": data.number})
    raise RuntimeError("swordfish")


def exits(data: Input, work: ModuleHandle) -> Any:
    if data.text == "signal":
        os.kill(os.getpid(), data.number)
        time.sleep(60)
    os._exit(data.number)


def sleeps(data: Input, work: ModuleHandle) -> Any:
    """Start daemons, and call the handle at times."""
    for _ in range(data.number):
        subprocess.Popen(("sleep", "1000"), start_new_session=True)
    if "CMD" in data.text:
        work.run(("sleep", "1000"))
    while True:
        time.sleep(0.02)
        if data.text != "deaf":
            work.list()


def late(data: Input, work: ModuleHandle) -> Any:
    """Never call the handle."""
    time.sleep(data.number / 1000)
    return "late"


def connects(data: Input, work: ModuleHandle) -> Any:
    """Return whether this process and a command reach a port of this machine."""
    code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 30)"
    command = work.run((sys.executable, "-I", "-S", "-c", code, str(data.number)))
    try:
        socket.create_connection(("127.0.0.1", data.number), 30).close()
    except OSError:
        return {"handler": False, "command": command.exit_code == 0}
    return {"handler": True, "command": command.exit_code == 0}


def threads(data: Input, work: ModuleHandle) -> Any:
    """Start a thread that never ends."""
    threading.Thread(target=signal.pause if data.number else lambda: time.sleep(1000)).start()
    return "done"


def appends(data: Input, work: ModuleHandle) -> Any:
    before = work.read("file").decode() if work.stat("file") else ""
    work.write("file", before + data.text)
    return before + data.text


def _action(handler: Callable[[Any, ModuleHandle], Any], *capabilities: str) -> ModuleAction:
    name = handler.__name__
    return create_module_action(
        name=name, description=f"It {name}.", validation=Input, handler=handler, capabilities=capabilities
    )


ACTIONS = (
    *MODULE_ACTIONS,
    *(_action(handler) for handler in (echo, prints, gives, raises, exits, late, threads)),
    _action(sleeps, "fs:read", "cmd:run"),
    _action(connects, "cmd:run"),
    _action(appends, "fs:read", "fs:write"),
)
NOT_ACTIONS = (1, 2)
NOT_MANY = 3
