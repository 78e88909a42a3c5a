# make demo, make demo-postgres and make test do all the set-up by themselves: a Python 3.11 or newer is all they need.

PYTHON ?= python3
VENV := .venv
# Most tests wait most of the time: for deadlines, servers and brokers.
TEST_PROCESSES ?= 4
BIN := $(VENV)/bin
# Tests start processes by the hundred: each would compile the library anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo demo-postgres test check soak bench docs format clean

demo: $(VENV)/demo.done
	@$(BIN)/python -m examples.demo

demo-postgres: $(VENV)/demo-postgres.done
	@$(BIN)/python -m examples.demo --postgres

test: $(VENV)/test.done check
	@$(BIN)/python -m tests.console.browser
	$(BIN)/python -m pytest -q -m "not soak" --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy --num-workers 2 src tests examples benchmarks

soak: $(VENV)/mutation.done
	$(BIN)/python -m pytest -q -m "soak or hypothesis" --hypothesis-profile searching
	$(BIN)/python -m tests.mutation

bench: $(VENV)/bench.done
	$(BIN)/python -m benchmarks

docs: $(VENV)/docs.done
	$(BIN)/python -m tests.docs.generated
	$(BIN)/mkdocs build --strict

format: $(VENV)/test.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tests.docs.generated

clean:
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# One stamp for each set of extras: made again when the declarations or the pins change.
$(VENV)/%.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "actionengine needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
