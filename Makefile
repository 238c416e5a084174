# make run: set up if needed, then the main job on embedded data. make test: set up if needed, lint, tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint setup figures bench clean

run: setup
	$(BIN)/python -m ntkcl $(ARGS)

test: setup lint
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check ntkcl scripts tests
	$(BIN)/ruff format --check ntkcl scripts tests
	$(BIN)/mypy

figures: setup
	$(BIN)/python scripts/fashion_width.py

bench: setup
	$(BIN)/python scripts/bench_kernels.py
	$(BIN)/python scripts/bench_matrix_free.py
	$(BIN)/python scripts/bench_tiles.py
	$(BIN)/python scripts/bench_training.py
	$(BIN)/python scripts/kill_runs.py
	$(BIN)/python scripts/kill_sweep.py
	$(BIN)/python scripts/bench_sweep.py

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(v < (3, 11) and f'ntkcl needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache dist
