# `make search` runs the whole job on the embedded model; `make test` runs every check. Both install first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
# One process a core, up to 8. A file's tests run in one process, so that they share what they build.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# The embedded model's matrices are so small that a second thread only waits, and takes the core of another test.
export OMP_NUM_THREADS ?= 1

.PHONY: install search test fast lint format clean

install: .venv/.installed

# Nothing but what has the checksums that were pinned; torch, whose builds differ by platform, is pinned by version alone.
.venv/.installed: pyproject.toml constraints.txt tools/hashed-pins.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --require-hashes --no-deps --requirement tools/hashed-pins.txt
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $@

search: install
	$(BIN)/autoreap search search_spaces/tiny.yaml --model tiny

test: install lint
	$(PYTEST)

fast: install lint
	$(PYTEST) -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv mlruns/*
