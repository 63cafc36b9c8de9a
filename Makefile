# The two commands: `make run` and `make test`. Both do all the set-up, in .venv, and repeat none of it.
PYTHON ?= python3
PARAMS ?= local
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test lint unit notebooks notebooks-on test-trino test-clock format tour docs lab dashboard simulate screenshots bench soak day cron lock clean

help:  ## list the targets
	@echo "make TARGET [PARAMS=local|live|dev|staging|prod]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY)  ## run the whole monitor with its dashboard, until Ctrl-C
	@$(BIN)/cryptomon up --environment $(PARAMS)

test: lint unit notebooks  ## lint, tests, notebooks, S3, browser where a Chromium is found

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# a file's tests stay in one process: what they share (a replayed day, an opened page) is made once
unit: $(READY)  ## tests, S3 and browser included, a process a core
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

# nbval gives no parameters: the defaults run, on a root of their own. The tour is compared with its kept
# outputs; of the others only what is tagged nbval-check-output.
notebooks: $(READY)  ## run every notebook, the tour compared with its outputs
	@root=$$(mktemp -d); trap 'rm -rf "$$root"' EXIT; export CRYPTOMON_ROOT="$$root"; \
	$(BIN)/python -m pytest -q -p no:cacheprovider --nbval-current-env --nbval-cell-timeout 300 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval notebooks/0*.ipynb && \
	$(BIN)/python -m pytest -q -p no:cacheprovider --nbval-current-env --nbval-cell-timeout 300 \
		--nbval-lax notebooks/[1-9]*.ipynb notebooks/dashboard.ipynb

# what they are there for is done, on the environment's data and with its engine; for a deployed one its credentials are needed
notebooks-on: $(READY)  ## run the jobs' notebooks as tests on an environment: PARAMS=staging
	@mkdir -p .cryptomon; copies=$$(mktemp -d .cryptomon/notebooks-XXXXXX); trap 'rm -rf "$$copies"' EXIT; \
	$(BIN)/python scripts/notebooks_for.py $(PARAMS) "$$copies" && \
	$(BIN)/python -m pytest -q -p no:cacheprovider --nbval-current-env --nbval-cell-timeout 900 --timeout 1200 \
		--nbval-lax "$$copies"

# about 1 GB, fetched once; 2 GB of memory; says what is missing where there is no Java or no Maven
test-trino: $(READY)  ## compare every view on a real Trino with DuckDB
	$(BIN)/python -m pytest -q -m trino --timeout 1200 tests/test_trino.py

# Debian's package faketime; real minutes pass, so nothing else should take the machine's time
test-clock: $(READY)  ## set the clock of a running runner and of a sampled job, four minutes
	$(BIN)/python -m pytest -q -m clock --timeout 600 tests/test_clock.py

format: $(READY)  ## format code and strip notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tour: $(READY)  ## execute the notebooks 0* anew and keep their outputs, which tests compare them with
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
		notebooks/0*.ipynb

docs: $(READY)  ## write the pages that come from code: exchanges, data dictionary, commands, the cost sheet
	$(BIN)/python -m cryptomon_lib.catalogue
	$(BIN)/python -m cryptomon_lib.dictionary
	$(BIN)/python -m cryptomon_lib.commands
	$(BIN)/python -m cryptomon_lib.cost

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=notebooks

dashboard: $(READY)  ## serve the dashboard alone
	$(BIN)/cryptomon dashboard --environment $(PARAMS)

simulate: $(READY)  ## serve the simulated exchange alone
	$(BIN)/cryptomon simulate

screenshots: $(READY)  ## take the pictures of README and docs anew, from a fresh run
	$(BIN)/python docs/screenshots.py

soak: $(READY)  ## a month of simulated minutes, hours long; ended anywhere, it goes on
	@$(BIN)/python benchmarks/soak.py .cryptomon/soak

day: $(READY)  ## a day of 9,590 markets a minute with kernels, an hour or two; ended anywhere, it goes on
	@$(BIN)/python benchmarks/day.py .cryptomon/day

cron: $(READY)  ## four minutes of real cron on the simulated exchange: each minute once; needs root and Debian's cron
	@rm -rf .cryptomon/cron && $(BIN)/python benchmarks/cron.py .cryptomon/cron

bench: $(READY)  ## run the benchmarks, side by side
	@for bench in $(filter-out benchmarks/soak.py benchmarks/day.py benchmarks/cron.py,$(wildcard benchmarks/*.py)); do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

lock: $(READY)  ## resolve requirements.lock anew: names, versions, hashes
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --extra dev pyproject.toml --output-file requirements.lock

clean:  ## remove the virtual environment and what runs left behind; data stays
	rm -rf $(VENV) .cryptomon .pytest_cache .ruff_cache build *.egg-info

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("cryptomon needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV), once …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# uv does in seconds what takes pip minutes; where it cannot (an index that only pip is told of), pip does it
	@$(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes \
		--requirement requirements.lock || { echo "uv could not (see above); pip does it, which takes minutes …"; \
		$(PIP) --require-hashes --requirement requirements.lock; }
	@$(PIP) --no-deps --editable .
	@touch $(READY)
