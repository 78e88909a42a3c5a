"""The commands in the examples' README work as they stand there, against both hosts."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.examples.conftest import Host

README = Path(__file__).parents[2] / "examples" / "README.md"


needs_curl = pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")


def commands(language: str, host: Host) -> list[str]:
    """The blocks of a language in the README, for this host."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    here = str(host.client.base_url).rstrip("/")
    return [
        block.replace("http://127.0.0.1:8001", here).replace("curl -s", "curl --noproxy '*' -s") for block in blocks
    ]


@needs_curl
def test_the_commands_of_the_readme_work_from_top_to_bottom(fresh_working_host: Host) -> None:
    # Each answer ends in a line of its own, as on a terminal with a prompt.
    script = "set -euo pipefail\n" + "\n".join(commands("console", fresh_working_host)).replace("-s ", r"-s -w '\n' ")
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=True)

    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    told = [answer.get("error", {}).get("code", "data") for answer in answers]
    assert told == [
        *("data", "data"),  # discovery
        *("data", "data"),  # scheduled and completed
        *("data", "data"),  # refunded and replayed
        *("approval_required", "forbidden", "data"),
        *("data", "not_found"),  # the log and the other tenant
        *("data", "data"),  # the invoices and the board
        "invalid_input",  # a field that is not there yet
        *("data", "data", "data"),  # drafted: an op, the preview, Validating
        *("forbidden", "forbidden"),  # an agent decides nothing
        *("data", "data", "data"),  # Ready, merged, used
        *("data", "data", "data", "approval_required"),  # the way back
        *("data", "data"),  # history
        *("data", "data", "data"),  # issued, overdue, waiting
        *("not_found", "data"),  # who may not see it, and who approves
        *("data", "data"),  # the run and the log
    ]
    first, retried = answers[4:6]
    assert first == retried
    assert first["data"]["refunded"] == 5000
    assert answers[8]["data"]["result"]["refunded"] == 505_000
    assert [row["approved_by"] for row in answers[9]["data"]["items"] if row["approved_by"]] == ["human:maria"]
    preview, used, taken_back, schema, history = (answers[place]["data"] for place in (15, 21, 22, 26, 27))
    assert [field["name"] for field in preview["diff"][0]["added"]] == ["urgency"]
    assert used["details"] == {"floor": 3, "urgency": "today"}
    assert [misfit["problems"].keys() for misfit in taken_back["documents"][0]["invalid"]] == [{"urgency"}]
    assert (schema["version"], history["is_intact"]) == (2, True)
    (waiting,) = (each for each in answers[30]["data"]["items"] if each["action"] == "workflow_steps.perform")
    run, log = answers[33]["data"], answers[34]["data"]["items"]
    assert waiting["reason"].startswith("Escalate the invoice of Ada: 240000 cents, risk high")
    assert [step["step"] for step in run["steps"]] == ["assess", "weigh", "call", "approve", "escalate", "tell"]
    assert {"invoices.escalate", "agent.assess_risk", "invoices.mark_overdue"} <= {row["action"] for row in log}


@needs_curl
def test_the_commands_that_watch_show_what_happens_as_it_happens(relaying_host: Host) -> None:
    everything, some = commands("sh", relaying_host)
    for command, types in (
        (everything, ["jobs.created", "jobs.scheduled", "jobs.completed", "invoices.drafted"]),
        (some, ["jobs.completed", "invoices.drafted"]),
    ):
        with subprocess.Popen(["bash", "-c", f"exec {command}"], stdout=subprocess.PIPE, encoding="utf-8") as curl:
            assert curl.stdout is not None
            lines = (line.strip() for line in curl.stdout)
            assert next(lines) == ": still here"
            job = relaying_host.completed_job()
            documents = (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
            about = (event["type"] for event in documents if event["subject"] in (f"jobs/{job}", f"invoices/{job}"))
            assert [next(about) for _ in types] == types
            curl.send_signal(signal.SIGINT)
