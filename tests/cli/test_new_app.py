"""`actionengine new` writes an app that runs and whose tests pass, or it writes nothing."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest
from sqlalchemy import make_url

from actionengine.cli.new import MAX_NAME_LENGTH
from tests.command_line import Run
from tests.docs.app_session import SERVER, AppSession, empty_database
from tests.docs.test_code_blocks import blocks_of
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("fastapi", "flask")
ORDER = {"number": "O-1", "customer": "Ms Lee", "amount": 5_000_00}
SMALL, LARGE = {"number": "O-1", "amount": 50_00}, {"number": "O-1", "amount": 2_000_00}
CARLA, MO, BOT, GUS = [(name, "demo") for name in ("carla", "mo", "bot-7", "gus")]


def run_in(folder: Path, *command: str, **environment: str) -> CompletedProcess[str]:
    """Run a command in the folder of an app, which must succeed."""
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def make(folder: Path, target: str, **environment: str) -> CompletedProcess[str]:
    """Run `make` with this interpreter, in which everything is installed."""
    return run_in(folder, "make", target, f"PYTHON={sys.executable}", **environment)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an app, as made."""
    directory = tmp_path_factory.mktemp("apps")
    name = f"shop_{request.param}"
    arguments = ["new", name, "--framework", request.param, "--directory", str(directory)]
    run_in(directory, sys.executable, "-c", "from actionengine.cli import main; main()", *arguments)
    (directory / name / ".installed").touch()
    return directory / name


@contextmanager
def serving(app: Path, **environment: str) -> Iterator[httpx.Client]:
    """Serve an app by `make run`, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", app.name]
    variables = {**os.environ, "PORT": str(port), "PYTHONUNBUFFERED": "1", **environment}
    errors = app / "errors.txt"
    with errors.open("w") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        process = subprocess.Popen(command, cwd=app, env=variables, stdout=log, stderr=log)

        def answers() -> bool:
            assert process.poll() is None, errors.read_text()
            try:
                return client.get("/openapi.json").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(answers)
            yield client
        finally:
            process.terminate()
            process.wait(30)


def test_its_own_tests_pass_as_made(app: Path) -> None:
    assert " passed" in make(app, "test").stdout


def test_its_style_is_that_of_the_library(app: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    run_in(app, str(ruff), "check", ".")
    run_in(app, str(ruff), "format", "--check", ".")
    ours, its = (tomllib.loads((each / "pyproject.toml").read_text())["tool"]["ruff"] for each in (ROOT, app))
    # Every rule but two: ASYNC and TC.
    assert set(its["lint"]["select"]) <= set(ours["lint"]["select"])
    assert its["line-length"] == ours["line-length"]


@pytest.mark.parametrize("app", ["fastapi", pytest.param("flask", marks=pytest.mark.soak)], indirect=True)
def test_its_types_are_strict(app: Path) -> None:
    # Only the first run checks the packages that the app imports.
    assert "Success" in make(app, "check", MYPY_CACHE_DIR=str(ROOT / ".mypy_cache" / "apps")).stdout


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_nothing_of_the_template_is_left(tmp_path: Path, run: Run, framework: str) -> None:
    run("new", "shop", "--framework", framework, "--directory", str(tmp_path))
    for file in (tmp_path / "shop").rglob("*"):
        assert "my_app" not in file.name
        assert not file.name.endswith("-tpl")
        assert file.is_dir() or not re.search(r"my_app|FRAMEWORK_|/home/|/work/|/tmp/", file.read_text()), file


def test_app_serves_its_actions_and_the_console(app: Path) -> None:
    with serving(app, ACTIONENGINE_URL="sqlite:///served.db") as client:
        assert client.post("/api/orders/place", json=ORDER, auth=CARLA).json()["data"] == {**ORDER, "refunded": 0}
        key = {"Idempotency-Key": "k-1"}
        for _ in range(2):
            refunded = client.post("/api/orders/refund", json=SMALL, headers=key, auth=CARLA)
            assert (refunded.status_code, refunded.json()["data"]["refunded"]) == (200, 50_00)
        held = client.post("/api/orders/refund", json=LARGE, headers={"Idempotency-Key": "k-2"}, auth=BOT)
        assert (held.status_code, held.json()["error"]["code"]) == (202, "approval_required")
        assert client.post("/api/orders/list", json={}, auth=GUS).json() == {"data": []}
        assert client.post("/api/orders/list", json={}, auth=("mo", "guess")).status_code == 401
        assert "/api/orders/refund" in client.get("/openapi.json").json()["paths"]
        assert client.get("/console/").status_code == 401
        assert "orders.refund" in client.get("/console/approvals", auth=MO).text
    assert (app / "served.db").exists()


@pytest.mark.parametrize("app", ["fastapi"], indirect=True)
def test_migrations_run_on_postgresql(app: Path, postgres_server: str) -> None:
    """The owner migrates, changes nothing more, takes back and repeats; then the app role serves."""
    server = make_url(empty_database(postgres_server, "owner"))
    owner, role = (server.set(username=each).render_as_string(hide_password=False) for each in ("owner", "app"))
    commands = f"""
from alembic import command
from {app.name}.db.migrate import alembic_config, migrate
url = {owner!r}
config = alembic_config(url)
migrate(url)
command.check(config)
command.downgrade(config, "app@base")
migrate(url)
command.check(config)
"""
    run_in(app, sys.executable, "-c", commands)
    with serving(app, ACTIONENGINE_URL=role) as client:
        placed = client.post("/api/orders/place", json=ORDER, auth=CARLA)
        assert placed.json()["data"] == {**ORDER, "refunded": 0}
        assert client.post("/api/orders/list", json={}, auth=GUS).json() == {"data": []}


@pytest.mark.soak
@pytest.mark.parametrize("app", ["fastapi"], indirect=True)
def test_a_changed_table_gets_its_migration(app: Path, tmp_path: Path) -> None:
    database = {"ACTIONENGINE_URL": f"sqlite:///{tmp_path / 'changed.db'}"}
    tables = app / app.name / "db" / "tables.py"
    before = tables.read_text()
    tables.write_text(
        before.replace("    customer: Mapped[str]\n", "    customer: Mapped[str]\n    note: Mapped[str | None]\n")
    )
    try:
        make(app, "migrate", **database)
        run_in(app, "make", "revision", "m=Add a note", f"PYTHON={sys.executable}", **database)
        (added,) = (app / app.name / "db/migrations/versions").glob("*_add_a_note.py")
        assert "op.protect_table('orders', app_role='app')" in added.read_text()
        make(app, "migrate", **database)
        added.unlink()
    finally:
        tables.write_text(before)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("my-app", "such as my_app"),
        ("MyApp", "such as my_app"),
        ("1st", "such as my_app"),
        ("_app", "such as my_app"),
        ("app_", "such as my_app"),
        ("", "such as my_app"),
        ("caffè", "such as my_app"),
        ("../x", "such as my_app"),
        ("x/y", "such as my_app"),
        (".", "such as my_app"),
        ("a\nb", "such as my_app"),
        ("class", "is a keyword"),
        ("json", "standard library"),
        ("actionengine", "installed package"),
        ("flask", "installed package"),
        ("starlette", "installed package"),
        ("test", "installed package"),
        ("tests", "installed package"),
        ("a" * (MAX_NAME_LENGTH + 1), "40 is the most"),
    ],
)
def test_bad_name_is_refused(tmp_path: Path, run: Run, name: str, told: str) -> None:
    refused = run("new", name, "--directory", str(tmp_path))
    assert refused.returncode == 2
    assert told in " ".join(re.sub(r"[│╭╮╰╯─]", " ", refused.stderr).split())
    assert list(tmp_path.iterdir()) == []


def test_folder_with_files_is_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    refused = run("new", "shop", "--directory", str(tmp_path))
    assert (refused.returncode, "is not an empty folder" in refused.stderr) == (1, True)
    assert [each.name for each in tmp_path.rglob("*")] == ["shop", "mine.txt"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_left_alone(tmp_path: Path, run: Run, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        (tmp_path / "shop").write_text("mine")
    else:
        (tmp_path / "shop").symlink_to(tmp_path / "elsewhere")
    refused = run("new", "shop", "--directory", str(tmp_path))
    assert (refused.returncode, "is not an empty folder" in refused.stderr) == (1, True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_empty_folder_is_filled(tmp_path: Path, run: Run) -> None:
    (tmp_path / "shop").mkdir()
    done = run("new", "shop", "--directory", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[2:5] == [f"    cd {tmp_path / 'shop'}", "    make test", "    make run"]
    assert (tmp_path / "shop" / "shop" / "app.py").exists()


def test_failed_write_leaves_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def write_until_the_disk_is_full(file: Path, *text: str) -> int:
        if file.name == "Makefile":
            raise OSError(28, "No space left on device", str(file))
        return write(file, *text)

    monkeypatch.setattr(Path, "write_text", write_until_the_disk_is_full)
    refused = run("new", "shop", "--directory", str(tmp_path))
    assert (refused.returncode, refused.stderr) == (1, f"cannot write {tmp_path / 'shop'}: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_folder_without_the_right_to_write_is_named(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    refused = run("new", "shop", "--directory", str(tmp_path))
    assert (refused.returncode, refused.stderr) == (1, f"cannot write {tmp_path / 'shop'}: Permission denied\n")


@pytest.mark.parametrize(
    "arguments", [["--framework", "rails"], ["--directory", "nowhere"], ["--actionengine", "nowhere"], ["more"], []]
)
def test_wrong_arguments_exit_with_2(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", *(["shop", *arguments] if arguments else [])).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_help_shows_an_example(run: Run) -> None:
    assert "actionengine new shop --framework flask" in run("new", "--help").stdout


def test_path_of_the_library_is_in_the_files_only_if_given(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "a checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "actionengine"\n')
    run("new", "shop", "--directory", str(tmp_path), "--actionengine", str(folder))
    project = tomllib.loads((tmp_path / "shop" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][0] == f"actionengine[cli,console,postgres] @ {folder.as_uri()}"


@pytest.mark.soak
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_readme_is_followed_in_a_fresh_environment(tmp_path: Path, postgres_server: str, framework: str) -> None:
    """The packages come from the index, the library from this checkout: by its path in the app for one framework, and
    installed before for the other."""
    run_in(tmp_path, sys.executable, "-m", "venv", "venv")
    bin = tmp_path / "venv" / "bin"
    run_in(tmp_path, str(bin / "pip"), "install", "--quiet", f"{ROOT}[cli,sql]")
    given = ["--actionengine", str(ROOT)] if framework == "flask" else []
    run_in(tmp_path, str(bin / "actionengine"), "new", "shop", "--framework", framework, *given)
    readme = (tmp_path / "shop" / "README.md").read_text()
    session = AppSession(tmp_path / "shop", empty_database(postgres_server, "shop_owner"), bin)
    try:
        printed = [session.run(block.code) for block in blocks_of(readme) if block.language == "console"]
    finally:
        session.close()
    assert [block.code.strip().endswith(SERVER) for block in blocks_of(readme) if block.language == "console"] == [
        True,
        False,
        True,
        False,
    ]
    assert " passed" in printed[0]
    assert '"refunded":0' in printed[1]
    assert "approval_required" in printed[1]
    assert "the database is up to date" in printed[2]
    assert "a host can work with it" in printed[3]
    assert "asked by ai:bot-7" in printed[3]
