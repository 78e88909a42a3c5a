"""A process with few descriptors, small files and no privileges. It prints the errors that it gets."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

from actionengine.boundary.files.files import ModuleFiles
from actionengine.errors import ActionError


def tell(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except ActionError as refusal:
        print(f"{name}:{refusal.code}")
    else:
        print(f"{name}:ok")


def limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def main(root: str) -> None:
    os.chdir(root)
    if os.geteuid() == 0:
        os.chown(".", 65534, 65534)
        os.seteuid(65534)
    os.mkdir("closed")
    with open("unreadable", "wb"):
        pass
    for each in ("closed", "unreadable"):
        os.chmod(each, 0)
    with ModuleFiles(".") as files:
        limit(resource.RLIMIT_NOFILE, 12)
        # A path of any depth needs two descriptors.
        tell("deep", lambda: files.write("d/" * 400 + "x", b"deep"))
        tell("read", lambda: files.read("unreadable"))
        tell("write", lambda: files.write("closed/x", b""))
        tell("walk", lambda: list(files.walk("closed")))
        limit(resource.RLIMIT_FSIZE, 1000)
        tell("large", lambda: files.write("large", bytes(2000)))
        limit(resource.RLIMIT_NOFILE, 3)
        tell("descriptors", lambda: files.read("d/d/d"))
    os.chmod("closed", 0o700)


if __name__ == "__main__":
    main(sys.argv[1])
