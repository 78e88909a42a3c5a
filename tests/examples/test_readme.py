"""The commands in the examples' README work as they stand there, against both hosts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.conftest import Host

README = Path(__file__).parents[2] / "examples" / "README.md"


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")
def test_the_commands_of_the_readme_work_from_top_to_bottom(fresh_host: Host) -> None:
    commands = "\n".join(re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))
    here = commands.replace("http://127.0.0.1:8001", str(fresh_host.client.base_url).rstrip("/"))
    # Each answer ends in a line of its own, as on a terminal with a prompt.
    script = "set -euo pipefail\n" + here.replace("curl -s", r"curl -s --noproxy '*' -w '\n'")
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=True)

    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    told = [answer.get("error", {}).get("code", "data") for answer in answers]
    assert told == [
        *("data", "data"),  # discovery
        *("data", "data"),  # scheduled and completed
        *("data", "data"),  # refunded and replayed
        *("approval_required", "forbidden", "data"),
        *("data", "not_found"),  # the log and the other tenant
    ]
    first, retried = answers[4:6]
    assert first == retried
    assert first["data"]["refunded"] == 5000
    assert answers[8]["data"]["result"]["refunded"] == 505_000
    assert [row["approved_by"] for row in answers[9]["data"]["items"] if row["approved_by"]] == ["human:maria"]
