"""`import actionengine` against `import pydantic`, each in a fresh process.

`import pydantic` alone imports next to nothing, because Pydantic loads its parts at their first use; so there is a
second row against `from pydantic import BaseModel`, which is what any model costs.
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
_USED = "from pydantic import BaseModel"


def run(seconds: float) -> list[Row]:
    """The time that the statement takes, without the start of the interpreter, from bytecode."""
    statements = (_OURS, _PEER, _USED)
    with TemporaryDirectory() as bytecode:
        for statement in statements:
            _time(statement, bytecode)
        times = take_samples({item: partial(_time, item, bytecode) for item in statements}, seconds)
    return [
        Row("import_time", _OURS, _PEER, times[_OURS], times[_PEER], at_most_more(0.060)),
        Row("import_time_used", _OURS, _USED, times[_OURS], times[_USED]),
    ]


def _time(statement: str, bytecode: str) -> float:
    """Bytecode is kept in a directory of the benchmark's own, so that no package has it and another not."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    program = f"from time import perf_counter as now; started = now(); {statement}; print(now() - started)"
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)
