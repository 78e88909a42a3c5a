"""The stylesheet and the scripts, served from memory with the hash of their content in the URL."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


class StaticFiles:
    """The files of the folder `static`. They need no caller: they are the same for all."""

    def __init__(self) -> None:
        folder = files("actionengine.console") / "static"
        self._files = {
            item.name: (item.read_bytes(), _TYPES[suffix])
            for item in folder.iterdir()
            if (suffix := "." + item.name.rpartition(".")[2]) in _TYPES
        }
        self._hashes = {name: sha256(content).hexdigest()[:16] for name, (content, _) in self._files.items()}

    def path(self, name: str) -> str:
        """Return the path of a file below the root of the console. It changes with the content."""
        return f"/static/{self._hashes[name]}/{name}"

    def respond(self, request: Request) -> Response | None:
        """Return a file; None for an unknown name or the hash of another version."""
        name = request.path_params["name"]
        if self._hashes.get(name) != request.path_params["hash"]:
            return None
        content, media_type = self._files[name]
        headers = {"etag": f'"{self._hashes[name]}"', "cache-control": _FOREVER}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)
