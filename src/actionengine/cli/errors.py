"""The errors of the command line: a line on stderr, without passwords and tracebacks."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer
from sqlalchemy.exc import DBAPIError, StatementError
from typer.core import TyperGroup

from actionengine.cli.terminal import escape
from actionengine.errors import ActionError, ErrorCode
from actionengine.masking.redaction import redact, secrets_in

_secrets: set[str] = set()
"""The secrets of this invocation, for all of its threads."""


class _Output:
    """The form of the errors of this invocation."""

    is_json = False


class ExitCode(IntEnum):
    """The exit codes of all commands. A mistake in the arguments is `USAGE`."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    FORBIDDEN = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


_EXIT_CODES: Mapping[ErrorCode, ExitCode] = {
    ErrorCode.INVALID_INPUT: ExitCode.USAGE,
    ErrorCode.NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorCode.UNAUTHENTICATED: ExitCode.FORBIDDEN,
    ErrorCode.FORBIDDEN: ExitCode.FORBIDDEN,
    ErrorCode.CONFLICT: ExitCode.CONFLICT,
    ErrorCode.APPROVAL_REQUIRED: ExitCode.CONFLICT,
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: ExitCode.CONFLICT,
    ErrorCode.IDEMPOTENCY_MISMATCH: ExitCode.CONFLICT,
    ErrorCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    ErrorCode.TIMEOUT: ExitCode.UNAVAILABLE,
    ErrorCode.RATE_LIMITED: ExitCode.UNAVAILABLE,
}

_WITH_SECRETS = (
    "ACTIONENGINE_URL",
    "ACTIONENGINE_DURABLE_URL",
    "ACTIONENGINE_PUBLISHER",
)
_SECRET_VARIABLES = ("ACTIONENGINE_SIGNING_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_OPTION = "--signing-key"
TRACEBACK = "ACTIONENGINE_TRACEBACK"
"""The environment variable that shows tracebacks, without secrets."""


class Commands(TyperGroup):
    """A group of commands that reports the errors of all its commands in a line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Collect the secrets of the arguments, and parse the arguments."""
        if extra.get("parent") is None and not rest:
            _Output.is_json = False
            _secrets.clear()
            _secrets.update(_known_secrets(args))
        with report_errors():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with report_errors(), _redacted_log():
            try:
                result = super().invoke(ctx)
            except SystemExit as error:
                # An engine's module can end the program: the command is not done then, whatever the exit code is.
                fail(f"the host's code ended the program: sys.exit({error.code!r})")
            # A reader that has gone away is noticed here, and not by the interpreter at its end.
            sys.stdout.flush()
            return result


@contextmanager
def report_errors() -> Iterator[None]:
    """Report an error in a line, and end the program with its exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        if hasattr(error, "format_message"):
            # A mistake in the arguments: the message repeats the wrong argument.
            said = error.format_message()
            if shown(said) == said:
                raise
            usage = typer.BadParameter.__base__
            assert usage is not None
            raise usage(shown(said), ctx=getattr(error, "ctx", None)) from None
        if os.environ.get(TRACEBACK):
            typer.echo(shown("".join(traceback.format_exception(error))), err=True)
        fail(message_of(error))


def message_of(error: BaseException) -> str:
    """Return the text of an error for the terminal."""
    if isinstance(error, BaseExceptionGroup):
        return message_of(error.exceptions[0])
    if isinstance(error, StatementError) and error.orig is not None:
        # The text of the outer error contains the statement's parameters.
        return message_of(error.orig)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"{error.name} is not installed: {error}"
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    is_ours = type(error).__module__.startswith(("actionengine.", "psycopg", "sqlite3", "sqlalchemy."))
    if text and (is_ours or isinstance(error, (OSError, ValueError, DBAPIError, ImportError))):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} ({TRACEBACK}=1 shows where)"


def fail(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Print a message on stderr, and end with an exit code. With `--json`, it is a JSON object in a line."""
    if _Output.is_json:
        _write_json(code.name.lower(), message, {}, None)
    else:
        typer.echo("\n".join(map(escape, shown(message).split("\n"))), err=True)
    raise typer.Exit(int(code))


def refuse(error: ActionError, tenant: str | None = None, hint: str = "") -> NoReturn:
    """Print the error of an action, as `report` does, and end with its exit code."""
    report(error, tenant, hint)
    raise typer.Exit(int(exit_code(error)))


def report(error: ActionError, tenant: str | None = None, hint: str = "") -> None:
    """Print the error of an action on stderr, with the slug of its tenant. With `--json`, it is an object in a line."""
    if _Output.is_json:
        _write_json(error.code.value, f"{error.message}{hint}", error.to_dict()["details"], tenant)
        return
    prefix = "" if tenant is None else f"{tenant}: "
    typer.echo(escape(shown(f"{prefix}{error.message}{hint}")), err=True)


def exit_code(error: ActionError) -> ExitCode:
    """Return the exit code for the error of an action."""
    return _EXIT_CODES.get(error.code, ExitCode.FAILED)


def answer_in_json(is_json: bool) -> bool:
    """Print the errors of this invocation as JSON from now on, if it was asked for JSON. Return that."""
    _Output.is_json = is_json
    return is_json


def _write_json(code: str, message: str, details: Mapping[str, Any], tenant: str | None) -> None:
    error = {"code": code, "message": shown(message), "details": details}
    typer.echo(json.dumps({"tenant": tenant, "error": error} if tenant is not None else {"error": error}), err=True)


def shown(text: str) -> str:
    """Return a text without the secrets of this invocation."""
    return redact(text, _secrets)


def _known_secrets(arguments: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        found |= secrets_in(argument)
        if argument == _SECRET_OPTION:
            found.add(following)
        elif argument.startswith(f"{_SECRET_OPTION}="):
            found.add(argument.partition("=")[2])
    for name in _WITH_SECRETS:
        found |= secrets_in(os.environ.get(name, ""))
    found.update(os.environ.get(name, "") for name in _SECRET_VARIABLES)
    return frozenset(found - {""})


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _is_logged(record: logging.LogRecord) -> bool:
    return not _Output.is_json or bool(os.environ.get(TRACEBACK))


@contextmanager
def _redacted_log() -> Iterator[None]:
    """Keep the secrets out of the log too, which goes to stderr unless a module configures it. With `--json`, only the
    error of the command is there."""
    handler = logging.lastResort
    if handler is None:
        yield
        return
    former = handler.formatter
    handler.setFormatter(_RedactingFormatter())
    handler.addFilter(_is_logged)
    try:
        yield
    finally:
        handler.setFormatter(former)
        handler.removeFilter(_is_logged)
