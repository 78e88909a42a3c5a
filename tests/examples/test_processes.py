"""The hosts as somebody starts them in a terminal, and stops them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.examples.conftest import MARIA, until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("program", "number"),
    [
        pytest.param("examples.flask_app", signal.SIGINT, id="flask-SIGINT"),
        pytest.param("examples.flask_app", signal.SIGTERM, id="flask-SIGTERM", marks=pytest.mark.soak),
        pytest.param("examples.fastapi_app", signal.SIGINT, id="fastapi-SIGINT", marks=pytest.mark.soak),
        pytest.param("examples.fastapi_app", signal.SIGTERM, id="fastapi-SIGTERM"),
    ],
)
def test_a_host_ends_at_a_signal_though_somebody_watches(program: str, number: signal.Signals, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        subprocess.Popen(
            [sys.executable, "-m", program, url.rpartition(":")[2]],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": str(tmp_path / "field_service.db")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):

        def answers() -> bool:
            assert process.poll() is None
            try:
                return client.get("/health").status_code == 200
            except httpx.ConnectError:
                return False

        try:
            until(answers)
            with client.stream("GET", "/events", headers=MARIA) as response:
                lines = response.iter_lines()
                assert next(lines) == ": still here"
                process.send_signal(number)
                assert all(line == "" or line.split(":")[0] in ("", "id", "event", "data") for line in lines)
            assert process.wait(60) in (0, -number)
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
