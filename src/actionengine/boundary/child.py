"""The child process of a `SubprocessRunner`: `python -m actionengine.boundary.child`.

It reads an order from stdin and writes one answer to stdout, both JSON, and checks the boundary again. The prints of a
handler and its libraries go to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.commands.processes import ProcessLimits
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.request import ExecutionRequest
from actionengine.boundary.runner import RunnerResult, answer_to_text
from actionengine.errors import ConfigurationError


def main() -> NoReturn:
    """Answer one order and end the process."""
    answers = os.dup(1)
    os.dup2(2, 1)
    answer = answer_to_text(_execute(json.load(sys.stdin))).encode()
    with open(answers, "wb") as file:
        file.write(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    # This does not wait for threads that a handler left running.
    os._exit(0)


def _execute(order: dict[str, Any]) -> RunnerResult:
    runner = InProcessRunner(
        CapabilityProfile(
            order["profile"], order["capabilities"], require_file_isolation=order["require_file_isolation"]
        ),
        actions_at(order["actions"]),
        limits=ProcessLimits(**order["limits"]),
        require_isolation=order["require_isolation"],
        readable=order["readable"],
        writable=order["writable"],
    )
    return runner.execute(ExecutionRequest.model_validate(order["request"]))


def actions_at(path: str) -> tuple[ModuleAction, ...]:
    """Return the module actions at an import path, `module:attribute`.

    Raises `ConfigurationError` if it cannot be imported, or names anything else.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise ConfigurationError(f"{path!r} is not an import path of the form module:attribute")
    try:
        found = getattr(import_module(name), attribute)
    except Exception as error:
        raise ConfigurationError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    try:
        actions = tuple(found)
    except TypeError:
        message = f"{path} is a {type(found).__name__}, not a sequence of module actions"
        raise ConfigurationError(message) from None
    for action in actions:
        if not isinstance(action, ModuleAction):
            raise ConfigurationError(f"{path} contains a {type(action).__name__}, not only module actions")
    return actions


if __name__ == "__main__":
    main()
