# run · test · serve · up: one line each. Nothing but Python 3.11+, pip and make is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Packages are installed without compiling them; set, every process would compile what it imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test audit bench serve up lock clean
help:      ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: $(VENV)/ready          ## from nothing to a promoted champion: the whole pipeline on the configured dataset
	@dvc repro
	@prefect --no-prompt work-pool create ferops --type process >/dev/null 2>&1 || true  # `prefect deploy --all` wants it
	@ferops status

test: $(VENV)/ready-dev     ## lint, types, import layers, every test
	ruff check . && ruff format --check . && mypy && lint-imports && pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=15

audit: $(VENV)/ready-dev    ## look the pinned dependencies up among the known vulnerabilities
	python .ci/audit.py

bench: $(VENV)/ready        ## the benchmarks in short, on synthetic faces: minutes; docs/benchmarks.md has the long ones
	python benchmarks/training.py --quick
	python benchmarks/drift.py --quick

serve: $(VENV)/ready        ## the champion over HTTP on port 3000
	bentoml serve

up: $(VENV)/ready           ## MLflow, Prefect with a worker, and the service together; Ctrl-C stops all
	honcho start

lock: $(VENV)/ready-dev     ## pin every dependency again, after changing pyproject.toml
	$(BIN)/pip install -q uv && uv pip compile --generate-hashes --no-header --no-emit-index-url --universal \
	  --python-version 3.11 --extra dev --upgrade -q pyproject.toml -o requirements.lock

clean:     ## remove the environment (results stay)
	rm -rf $(VENV)

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install -q --no-compile --disable-pip-version-check --no-deps -e .
	@touch $@

# PyTorch and transformers are the yardstick of one test, so they are not pinned with the rest.
$(VENV)/ready-dev: $(VENV)/ready requirements-parity.txt
	$(BIN)/pip install -q --no-compile --disable-pip-version-check -r requirements-parity.txt
	@touch $@
