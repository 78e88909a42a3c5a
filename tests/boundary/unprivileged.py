"""Keyed work as a user without privileges, killed at one of its steps. It reports the results.

`python -m tests.boundary.unprivileged <folder> <step>`: in a folder where everybody may write, killed at every so many
calls of the system.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.idempotency.journal import Journal
from actionengine.boundary.idempotency.run_once import run_once
from actionengine.boundary.module_handle import ModuleHandle
from tests.boundary.killed_work import Nothing, killed_at
from tests.boundary.modules import EVERYTHING, admit, perform, tree


def act(data: Nothing, work: ModuleHandle) -> None:
    """Change files in folders that are read-only before, afterwards, or both."""
    root = work.module.root
    for folder in ("both", "before", "gone/deep", "gone"):
        (root / folder).chmod(0o755)
    (root / "both/new").write_text("new")
    (root / "both/a").unlink()
    (root / "both").chmod(0o555)
    (root / "before/a").write_text("changed")
    shutil.rmtree(root / "gone")
    (root / "after/link").symlink_to("a")
    (root / "after/a").unlink()
    (root / "after/made").mkdir()
    (root / "after/made/b").write_text("b")
    (root / "after/made").chmod(0o500)
    (root / "after").chmod(0o555)


ACTION = create_module_action(name="act", description="Acts.", validation=Nothing, handler=act, capabilities=EVERYTHING)


def make_module(root: Path) -> None:
    """Create folders with a file in each, some of them read-only."""
    for name in ("both", "before", "gone/deep", "gone", "after"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "a").write_text(name)
        if name != "after":
            (root / name).chmod(0o555 if name != "gone/deep" else 0o755)
    (root / "gone/deep").chmod(0o555)


def keyed(root: Path) -> AdmittedRequest:
    """The request."""
    return admit(root, "act", actions=[ACTION], idempotency_key="one")


def main(folder: Path, step: int) -> None:
    """See above."""
    if os.geteuid() == 0:
        # Imports on first use would fail later.
        make_module(folder / "first")
        run_once(keyed(folder / "first"), perform)
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    plain = folder / "plain"
    make_module(plain)
    perform(admit(plain, "act", actions=[ACTION]))
    point = 1
    rounds = 0
    was_killed = True
    while was_killed:
        root = folder / f"module-{point}"
        make_module(root)
        was_killed = killed_at(point, keyed(root))
        killed_at(point // 2, keyed(root))
        run_once(keyed(root), perform)
        assert tree(root) == tree(plain), (point, tree(root), tree(plain))
        assert [name for name in os.listdir(Journal(root).folder) if name.endswith(".ready")] == []
        point += step
        rounds += 1
    print(rounds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
