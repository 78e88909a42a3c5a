"""The command line `actionengine`: databases, tenants, relays, projections, workflows, workers."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; its exit code is 1 where it could not be done."""
    try:
        from actionengine.cli.commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs {error.name}: pip install 'actionengine[cli,postgres]'")
    except KeyboardInterrupt:
        sys.exit(130)
    app()
