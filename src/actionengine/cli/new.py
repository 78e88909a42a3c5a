"""`actionengine new`: writes a small host that runs as it is."""

from __future__ import annotations

import keyword
import re
import sys
import tomllib
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from actionengine.cli.errors import fail

TEMPLATES = Path(__file__).with_name("templates")
"""The files of an app, with the suffix `-tpl`: those of `common`, and those of its framework. `my_app` is its name."""

MAX_NAME_LENGTH = 40
_NAME = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")
_NAMES_OF_PACKAGES = {"a2wsgi", "alembic", "fastapi", "flask", "jinja2", "psycopg", "starlette", "uvicorn", "werkzeug"}
"""Names of packages that the app imports or that these need, perhaps before they are installed."""
_NAMES_IN_TESTS = {"httpx2", "hypothesis", "mypy", "pytest", "ruff", "test", "tests"}
"""Names of packages of its tests, and of their folder."""


class Framework(StrEnum):
    """The web frameworks of the templates."""

    FASTAPI = "fastapi"
    FLASK = "flask"


class _Parts(NamedTuple):
    """The parts of files that a framework determines: its name, what the app requires, and what its tests do."""

    name: str
    requirements: str
    test_requirements: str


_PARTS = {
    Framework.FASTAPI: _Parts("FastAPI", '"fastapi>=0.115",\n    "uvicorn>=0.34"', '"httpx2>=2",\n    '),
    Framework.FLASK: _Parts("Flask", '"flask>=3.1"', ""),
}


def new(
    name: Annotated[str, typer.Argument(help="The name of the app, its folder and its Python package: my_app.")],
    framework: Annotated[Framework, typer.Option(help="The web framework.")] = Framework.FASTAPI,
    directory: Annotated[
        Path, typer.Option(help="The existing folder in which the app gets a folder.", exists=True, file_okay=False)
    ] = Path(),
    actionengine: Annotated[
        Path | None,
        typer.Option(help="A checkout or a wheel of actionengine to install, instead of the index.", exists=True),
    ] = None,
) -> None:
    """Write a small host: a service, its tests, migrations, the console. It runs, and its tests pass."""
    _check_name(name)
    target = directory / name
    parts = _PARTS[framework]
    replacements = {
        "my_app": name,
        "FRAMEWORK_NAME": parts.name,
        "FRAMEWORK_REQUIREMENTS": parts.requirements,
        "FRAMEWORK_TEST_REQUIREMENTS": parts.test_requirements,
    }
    if actionengine is not None:
        replacements["]>=0.1"] = f"] @ {_library(actionengine).as_uri()}"
    try:
        _write(target, framework, replacements)
    except FileExistsError:
        fail(f"{target} exists and is not an empty folder: give another name, or another --directory")
    except OSError as error:
        fail(f"cannot write {target}: {error.strerror}")
    print(f"made {target}, a {parts.name} host. Next:\n\n    cd {quote(str(target))}\n    make test\n    make run\n")


def _check_name(name: str) -> None:
    """Raise `typer.BadParameter` for a name that no Python package should have."""
    other = "give another name"
    if not _NAME.fullmatch(name):
        problem = "is no name of a package"
        other = "give lower-case letters, digits and _, beginning with a letter, such as my_app"
    elif len(name) > MAX_NAME_LENGTH:
        problem = f"has {len(name)} characters, and {MAX_NAME_LENGTH} is the most"
    elif keyword.iskeyword(name):
        problem = "is a keyword of Python"
    elif name in sys.stdlib_module_names:
        problem = "is a module of Python's standard library"
    elif name in _NAMES_OF_PACKAGES | _NAMES_IN_TESTS or find_spec(name) is not None:
        problem = "is the name of an installed package, or of one that the app needs"
    else:
        return
    raise typer.BadParameter(f"{name!r} {problem}: {other}", param_hint="'NAME'")


def _library(path: Path) -> Path:
    """Return the absolute path of a checkout or a wheel of this library. Raise `typer.BadParameter` for another one."""
    project = path / "pyproject.toml"
    is_ours = path.name.startswith("actionengine-") and path.suffix == ".whl"
    if project.is_file():
        is_ours = tomllib.loads(project.read_text("utf-8")).get("project", {}).get("name") == "actionengine"
    if not is_ours:
        raise typer.BadParameter(f"{path} is no checkout and no wheel of actionengine", param_hint="'--actionengine'")
    return path.resolve()


def _write(target: Path, framework: Framework, replacements: dict[str, str]) -> None:
    """Write an app. Its folder appears complete, or not at all."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise FileExistsError(target)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        app = Path(folder) / target.name
        for part in ("common", framework.value):
            for template in (TEMPLATES / part).rglob("*-tpl"):
                path = template.relative_to(TEMPLATES / part).as_posix().removesuffix("-tpl")
                _write_file(app / path.replace("my_app", target.name), template.read_text("utf-8"), replacements)
        app.replace(target)


def _write_file(file: Path, text: str, replacements: dict[str, str]) -> None:
    for old, given in replacements.items():
        text = text.replace(old, given)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
