"""Git repositories of the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
_AUTHOR = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main")


def git(root: Path, *arguments: str, stdin: str = "") -> str:
    """Run git and return its output."""
    command = ("git", *_AUTHOR, *arguments)
    ran = subprocess.run(command, cwd=root, env=_ENVIRONMENT, check=True, capture_output=True, input=stdin.encode())
    return ran.stdout.decode("utf-8", "replace")


def make_repository(root: Path, files: Mapping[str, str]) -> Path:
    """Create a work tree with one commit of these files."""
    root.mkdir(parents=True)
    git(root, "init", "-q")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root
