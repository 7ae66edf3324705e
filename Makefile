# `make search` runs the whole job on the embedded model; `make test` runs every check. Both install first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install search test fast lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

search: install
	$(BIN)/autoreap search search_spaces/tiny.yaml --model tiny

test: install lint
	$(BIN)/pytest

fast: install lint
	$(BIN)/pytest -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv mlruns/*
