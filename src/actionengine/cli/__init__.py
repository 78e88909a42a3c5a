"""The command line `actionengine`: databases, tenants, relays, projections, workflows, workers."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; the exit code is 1 if it fails."""
    try:
        from actionengine.cli.commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs {error.name}: pip install 'actionengine[cli,postgres]'")
    except KeyboardInterrupt:
        sys.exit(130)
    app()
