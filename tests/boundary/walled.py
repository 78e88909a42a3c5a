"""A module with secrets around it."""

from __future__ import annotations

import os
from pathlib import Path

SECRET = b"the secret of another tenant"


class Walled:
    """`root` is the module; the secrets are above it, beside it, and where a name would begin with its name."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "tenants" / "acme" / "module"
        self.outside = self.root.parent / "outside"
        self.root.mkdir(parents=True)
        (self.root / "inside.txt").write_bytes(b"inside")
        (self.root / "folder").mkdir()
        (self.root / "folder" / "inside.txt").write_bytes(b"inside")
        for folder in (base, base / "tenants", self.root.parent, self.outside, self.root.parent / "module-evil"):
            folder.mkdir(exist_ok=True)
            for name in ("secret", "passwd", "inside.txt"):
                (folder / name).write_bytes(SECRET)
        self._at_first = self._around()

    def _around(self) -> dict[str, bytes | None]:
        seen: dict[str, bytes | None] = {}
        for folder, folders, files in os.walk(self.base):
            if Path(folder) == self.root:
                folders.clear()
                continue
            seen |= {os.path.join(folder, each): None for each in folders}
            seen |= {os.path.join(folder, each): Path(folder, each).read_bytes() for each in files}
        return seen

    def check_outside(self) -> None:
        """Check that nothing outside was changed, created or removed."""
        assert self._around() == self._at_first

    def link(self, name: str, target: str | Path) -> None:
        """Create a symbolic link in the module."""
        made = self.root / name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.symlink_to(target)
