"""An EventBridge on loopback with scripted answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Entries = list[dict[str, Any]]
Answer = Callable[[Entries], tuple[int, dict[str, Any]]]


def accept(entries: Entries) -> tuple[int, dict[str, Any]]:
    """Return an answer without failures."""
    return fail_some(lambda entry: None)(entries)


def fail_some(code_of: Callable[[dict[str, Any]], str | None]) -> Answer:
    """Return an answer in which the entries with a code fail."""

    def answer(entries: Entries) -> tuple[int, dict[str, Any]]:
        codes = [code_of(entry) for entry in entries]
        results = [
            {"EventId": str(at)} if code is None else {"ErrorCode": code, "ErrorMessage": "so it is told"}
            for at, code in enumerate(codes)
        ]
        return 200, {"FailedEntryCount": sum(code is not None for code in codes), "Entries": results}

    return answer


def refuse(status: int, code: str) -> Answer:
    """Return the failure of a whole call."""
    return lambda entries: (status, {"__type": code, "message": "so it is told"})


@dataclass
class ScriptedAWS:
    """A server. `script` has an answer for each request; the last one repeats."""

    url: str
    script: list[Answer] = field(default_factory=lambda: [accept])
    requests: list[Entries] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def hang(self, entries: Entries) -> tuple[int, dict[str, Any]]:
        """Give no answer until the test ends."""
        self.let_go.wait(60)
        return 200, {}

    def sizes(self) -> list[int]:
        """Return the number of entries of each request."""
        return [len(entries) for entries in self.requests]


@contextmanager
def scripted_aws() -> Iterator[ScriptedAWS]:
    """Run a server for one test."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            aws.targets.append(self.headers["X-Amz-Target"])
            aws.requests.append(sent.get("Entries", []))
            answer = aws.script.pop(0) if len(aws.script) > 1 else aws.script[0]
            status, body = answer(sent.get("Entries", []))
            content = json.dumps(body).encode()
            self.close_connection = True
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                return

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    aws = ScriptedAWS(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield aws
    finally:
        aws.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
