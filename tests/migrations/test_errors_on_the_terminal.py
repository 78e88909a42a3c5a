"""No command ends in a traceback, or shows a password."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import psycopg
import pytest
from examples.embedded_postgres import Database
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from actionengine import ConfigurationError, PostgresStorage, SQLiteStorage
from actionengine.cli import common, errors
from actionengine.durable.urls import durable_url
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.masking.redaction import redact, redact_address, secrets_in
from tests.command_line import Run
from tests.faulty_proxy import FaultyProxy

SECRET = "hunter2-s3cret"
DATABASES = [
    f"postgresql://app:{SECRET}@127.0.0.1:1/shop",
    f"postgresql://app@127.0.0.1:1/shop?password={SECRET}",
    f"postgresql://app:{SECRET}@no-such-host.invalid/shop",
    f"postgresql://app:{SECRET}@127.0.0.1:port/shop",
    f"postgresql://127.0.0.1:{SECRET}/shop",
    f"postgresql://app:{SECRET}@127.0.0.1:1/shop?conect_timeout=3",
    f"postgresql://app:{SECRET}@/shop?service=nowhere",
    f"postgresql://app:{SECRET}@127.0.0.1:1/shop?sslmode=nonsense",
    f"postgresql://app:{SECRET}@127.0.0.1:1/shop?sslpassword={SECRET}&sslmode=verify-full&sslrootcert=/no/such/file",
    f"postgresql://app:p@{SECRET}@127.0.0.1:1/shop",
    f"postgresql://app:p/{SECRET}@127.0.0.1:1/shop",
    f"postgresql+psycopg2://app:{SECRET}@127.0.0.1:1/shop",
    f"mysql://app:{SECRET}@127.0.0.1/shop",
    f"oracle+nothing://app:{SECRET}@127.0.0.1/shop",
    f"host=127.0.0.1 user=app password={SECRET}",
    f"host=127.0.0.1 user=app password='{SECRET} and more'",
    f"app:{SECRET}@127.0.0.1/shop",
]
COMMANDS = [
    ("db", "check"),
    ("db", "upgrade"),
    ("db", "current"),
    ("tenant", "list"),
    ("tenant", "create", "acme", "--name", "Acme"),
    ("keys", "purge"),
    ("relay", "status"),
    ("events", "--tenant", "acme"),
]


def clean(done: object) -> str:
    """Return the output of a command, and check that it has no traceback and no password."""
    said = f"{done.stdout}{done.stderr}"  # type: ignore[attr-defined]
    assert "Traceback" not in said
    assert SECRET not in said, said
    return said


@pytest.mark.parametrize(("start", "url"), list(enumerate(DATABASES)))
def test_no_command_shows_the_password_of_a_database(run: Run, start: int, url: str) -> None:
    for number, command in enumerate(COMMANDS[start % 3 :: 3]):
        done = run(*command, "--url", url) if number % 2 else run(*command, ACTIONENGINE_URL=url)

        assert done.returncode in {1, 2}
        assert clean(done).strip()


@pytest.mark.parametrize("url", DATABASES)
def test_no_storage_names_the_password_of_its_database(url: str) -> None:
    for make in (PostgresStorage, durable_url):
        said = ""
        try:
            make(url)
        except ConfigurationError as error:
            said = str(error)
        assert SECRET not in said


@pytest.mark.parametrize(
    "command", [("workflows", "upgrade"), ("runner", "work", "--modules", ".", "--profile", "READ_ONLY")]
)
@pytest.mark.parametrize("url", [DATABASES[0], DATABASES[3], DATABASES[4], DATABASES[11], DATABASES[12]])
def test_no_command_shows_the_password_of_the_durable_engine(run: Run, command: tuple[str, ...], url: str) -> None:
    done = run(*command, "--url", url)

    assert done.returncode == 1
    assert clean(done).strip()


@pytest.mark.parametrize(
    "address",
    [
        f"nats://me:{SECRET}@127.0.0.1:1?colour=red",
        f"nats://{SECRET}@127.0.0.1:1?colour=red",
        f"nats://me:{SECRET}@",
        f"amqp://me:{SECRET}@127.0.0.1:port/x?colour=red",
        f"amqp://me:{SECRET}@127.0.0.1:port/x",
        f"kafka://me:{SECRET}@127.0.0.1:9092",
        f"redis://:{SECRET}@127.0.0.1:1/0?to=nowhere",
        f"redis://me:{SECRET}@127.0.0.1:port/0",
        f"redis://127.0.0.1:{SECRET}/0",
        f"amqp://me:p/{SECRET}@127.0.0.1/x?colour=red",
        f"eventbridge://bus?aws_secret_access_key={SECRET}",
        f"eventbridge://bus?endpoint_url=nonsense://me:{SECRET}@x",
        f"stdout:?token={SECRET}",
        f"gopher://me:{SECRET}@127.0.0.1",
        f"no.module:attribute?password={SECRET}",
        "no_such_module:attribute",
        "json:nothing",
        "json:dumps",
    ],
)
def test_no_address_of_a_publisher_is_shown_with_its_password(run: Run, tmp_path: Path, address: str) -> None:
    with SQLiteStorage(tmp_path / "x.db"):
        pass

    done = run("relay", "run", "--drain", "--publisher", address, "--url", f"sqlite:///{tmp_path / 'x.db'}")

    assert done.returncode == 1
    assert clean(done).strip()
    said = ""
    try:
        publisher_from_address(address)
    except ConfigurationError as error:
        said = str(error)
    assert SECRET not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("db", "check", f"postgresql://app:{SECRET}@host/shop"),
        ("db", f"postgresql://app:{SECRET}@host/shop"),
        (f"postgresql://app:{SECRET}@host/shop",),
        ("keys", "purge", "--batch", f"postgresql://app:{SECRET}@host/shop"),
        ("keys", "purge", "--batch", f"password={SECRET}", "--url", "sqlite:///x.db"),
        ("db", "unsign", "--signing-key", SECRET, f"--url=postgresql://h:{SECRET}/x"),
        ("db", "check", f"--signing-key={SECRET}", "--batch", SECRET),
        ("db", "check", "--signing-key", SECRET, SECRET),
    ],
)
def test_mistake_in_arguments_is_shown_without_its_password(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)

    assert done.returncode in {1, 2}
    assert clean(done).strip()


def test_a_wrong_password_is_told_without_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OperationalError(
            "SELECT %(key)s", {"key": SECRET}, psycopg.OperationalError(f'conninfo "password={SECRET}": refused')
        )

    monkeypatch.setattr("actionengine.cli.commands.owner", refuse)

    done = run("db", "current", "--url", "postgresql://app@host/shop")

    assert (done.returncode, clean(done)) == (1, 'conninfo "password=***": refused\n')


def test_an_error_that_nobody_expects_is_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError(f"nobody thought of postgresql://app:{SECRET}@host/shop")

    monkeypatch.setattr("actionengine.cli.commands.owner", fail)
    url = f"postgresql://app:{SECRET}@host/shop"

    done = run("db", "current", "--url", url)
    traced = run("db", "current", "--url", url, ACTIONENGINE_TRACEBACK="1")

    expected = "RuntimeError: nobody thought of postgresql://***@host/shop (ACTIONENGINE_TRACEBACK=1 shows where)\n"
    assert (done.returncode, clean(done)) == (1, expected)
    assert "Traceback" in traced.stderr
    assert SECRET not in traced.stderr


def test_a_log_line_has_no_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def log(*arguments: object, **options: object) -> None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, "lost %s", (SECRET,), None)
        assert logging.lastResort is not None
        shown.append(logging.lastResort.format(record))
        raise KeyboardInterrupt

    monkeypatch.setattr("actionengine.cli.commands.owner", log)

    done = run("db", "current", "--url", f"postgresql://app:{SECRET}@host/shop")

    assert (done.returncode, clean(done)) == (130, "")
    assert shown == ["lost ***"]


@pytest.mark.parametrize("command", [("tenant", "create", "acme", "--name", "Acme"), ("db", "upgrade")])
def test_a_locked_file_is_told_in_a_line(
    run: Run, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "actionengine.storage.sqlite.storage.SQLiteStorage.__init__", _impatient(SQLiteStorage.__init__)
    )
    sqlite3.connect(tmp_path / "x.db").close()
    holder = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    holder.execute("PRAGMA journal_mode = WAL")
    holder.execute("BEGIN IMMEDIATE")

    done = run(*command, "--url", f"sqlite:///{tmp_path / 'x.db'}")

    holder.close()
    assert done.returncode == 1
    assert "lock" in clean(done)


def _impatient(init: object) -> object:
    def impatient(self: object, *arguments: object, **options: object) -> None:
        init(self, *arguments, **{**options, "busy_timeout": 0.1})  # type: ignore[operator]

    return impatient


@pytest.mark.parametrize("content", [b"this is no database, but a text that is long enough", b"\0" * 4096])
def test_a_file_that_is_no_database_is_told_in_a_line(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)

    for command in (*COMMANDS, ("db", "protect", "jobs")):
        done = run(*command, "--url", f"sqlite:///{tmp_path / 'x.db'}")
        assert "Traceback" not in clean(done)
        assert done.returncode in {0, 1}


def test_a_folder_and_a_missing_file_are_told_in_a_line(run: Run, tmp_path: Path) -> None:
    for command in COMMANDS:
        done = run(*command, "--url", f"sqlite:///{tmp_path}")
        assert clean(done).strip()
        assert done.returncode == 1 or command == ("db", "current")


def test_a_real_process_shows_no_password(run_process: Run) -> None:
    done = run_process("db", "check", "--url", DATABASES[0])

    assert done.returncode == 1
    assert "out of reach" in clean(done)


def test_a_role_without_rights_is_told_in_a_line(run: Run, fresh_postgres_database: Database) -> None:
    app = make_url(fresh_postgres_database.app_url).set(password=SECRET).render_as_string(hide_password=False)

    for command in (("db", "sign"), ("db", "protect", "ae_documents")):
        done = run(*command, "--url", app)
        assert done.returncode == 1
        assert "permission denied" in clean(done) or "must be owner" in clean(done)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://app:pw@host/db", "postgresql://***@host/db"),
        ("at postgresql://app:p@w@host/db?x=1, or so", "at postgresql://***@host/db?x=1, or so"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = 'p w\\' x' dbname=d", "host=h password = *** dbname=d"),
        ("https://h/?access_token=pw&x=1", "https://h/?access_token=***&x=1"),
        ('{"password": "p w", "user": "u"}', '{"password": ***, "user": "u"}'),
        ("AKIAIOSFODNN7EXAMPLE may not", "*** may not"),
        ('password authentication failed for user "app"', 'password authentication failed for user "app"'),
        ("no password supplied", "no password supplied"),
        ("passfile=/home/x/.pgpass", "passfile=/home/x/.pgpass"),
    ],
)
def test_a_text_is_redacted(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("postgresql://app@host:5432/db", set()),
        ("postgresql://app:@/db?host=/tmp/x", set()),
        ("postgresql://[::1]:5432/db", set()),
        ("nats://host:4222?stream=events", set()),
        ("nats://token@host:4222", {"token"}),
        ("eventbridge://arn:aws:events:eu-central-1:1:event-bus/x", set()),
        ("sqlite:///folder/file.db", set()),
        ("module:attribute", set()),
        ("kafka://one:9092,two:9092", set()),
        ("redis://:pw@host/0", {"pw"}),
        ("host=h password='p w'", {"p w", "p%20w", "p+w"}),
    ],
)
def test_only_secrets_are_taken_for_secrets(text: str, secrets: set[str]) -> None:
    assert secrets_in(text) == secrets


def test_secrets_are_hidden_in_each_form() -> None:
    secrets = secrets_in("postgresql://app:p%40ss%20word%2F1@host/db")

    for form in ("p%40ss%20word%2F1", "p@ss word/1", "p%40ss+word%2F1"):
        assert form not in redact(f"given: {form}.", secrets)
    assert redact("spawn of pw, pwd", ["pw"]) == "spawn of ***, pwd"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("nonsense", "nonsense"),
        ("", ""),
        ("postgresql://u:pw@host:5432/db?x=1", "postgresql://***@host:5432/db"),
        ("u:pw@host/db", "***@host/db"),
        ("postgresql://host:pw/db", "postgresql://…"),
        ("postgresql://host:5432/db?password=pw", "postgresql://host:5432/db"),
        ("host=h password=pw", "…"),
        ("postgresql://u:p@w d@ho st/", "postgresql://***@…"),
    ],
)
def test_an_address_is_redacted(address: str, expected: str) -> None:
    assert redact_address(address) == expected


def test_errors_are_told_by_what_they_are() -> None:
    assert errors.message_of(FileNotFoundError(2, "No such file or directory", "x.py")) == (
        "x.py: No such file or directory"
    )
    assert errors.message_of(ExceptionGroup("several", [ConfigurationError("this one")])) == "this one"
    assert errors.message_of(KeyError("x")) == "KeyError: 'x' (ACTIONENGINE_TRACEBACK=1 shows where)"


@pytest.mark.parametrize("command", [("db", "upgrade"), ("db", "current"), ("db", "sign")], ids=" ".join)
def test_a_silent_server_is_told_of(
    postgres_database: Database, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(common, "ANSWER_TIMEOUT", 0.2)
    with FaultyProxy.before_postgres(postgres_database.owner_url) as proxy:
        proxy.swallow_new("after login")
        done = run(*command, "--url", proxy.url(postgres_database.owner_url))

    assert done.returncode == 1
    assert "the server did not answer in time" in clean(done)


def test_a_command_may_take_long_as_long_as_the_server_works(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "ANSWER_TIMEOUT", 0.3)

    with common.owner(postgres_database.owner_url) as connection:
        assert connection.scalar(text("SELECT 7 FROM pg_sleep(1.2)")) == 7


def test_a_command_ends_when_the_network_falls_silent_meanwhile(
    postgres_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "ANSWER_TIMEOUT", 0.3)
    with FaultyProxy.before_postgres(postgres_database.owner_url) as proxy:

        def fall_silent() -> None:
            with common.owner(proxy.url(postgres_database.owner_url)) as connection:
                proxy.swallow()
                connection.execute(text("SELECT 1"))

        with pytest.raises(OperationalError, match="did not answer in time"):
            fall_silent()
