"""The command line `actionengine`: databases, tenants, relays, projections, workflows, workers."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Run a command; the exit code is 1 if it fails."""
    try:
        from actionengine.cli.commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs {error.name}: pip install 'actionengine[cli,postgres]'")
    except KeyboardInterrupt:
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        # Not all terminals encode the letters of all languages.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
