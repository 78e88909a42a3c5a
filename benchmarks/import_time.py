"""`import actionengine` against `import pydantic`, each in a fresh process.

Both load their parts at their first use. So there is a second row: `create_engine`, which loads all that executes an
action, against `BaseModel`, which is what any model costs and what an engine needs too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks.report import Row, at_most_more
from benchmarks.timing import take_samples

_OURS = "import actionengine"
_PEER = "import pydantic"
_OURS_USED = "from actionengine import create_engine"
_PEER_USED = "from pydantic import BaseModel"


def run(seconds: float) -> list[Row]:
    """The time that the statement takes, without the start of the interpreter, from bytecode."""
    statements = (_OURS, _PEER, _OURS_USED, _PEER_USED)
    with TemporaryDirectory() as bytecode:
        for statement in statements:
            _time(statement, bytecode)
        times = take_samples({item: partial(_time, item, bytecode) for item in statements}, seconds)
    return [
        Row("import_time", _OURS, _PEER, times[_OURS], times[_PEER], at_most_more(0.060)),
        Row("import_time_used", _OURS_USED, _PEER_USED, times[_OURS_USED], times[_PEER_USED]),
    ]


def _time(statement: str, bytecode: str) -> float:
    """Bytecode is kept in a directory of the benchmark's own, so that no package has it and another not."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    program = f"from time import perf_counter as now; started = now(); {statement}; print(now() - started)"
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)
