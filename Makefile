# Everything a user, a developer and CI run. `make` alone lists the targets.
#
# Needs: make, bash, and Python 3.11 or newer with its venv module; the rest is installed into .venv
# from locked, hashed requirements. Users need requirements.txt only, developers requirements-dev.txt.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
JOBS ?= 2
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n $(JOBS)
QUICK := $(wildcard tests/unit tests/property tests/contract tests/simulation \
	tests/architecture tests/end_to_end)
WORKLOADS ?=
BENCH_OPTIONS ?=

.PHONY: help demo test check static deps bench mutations docs lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/.installed ## the whole story on a real tree of this machine, in about a minute
	@$(BIN)/holdfast demo

test: .venv/.installed-dev ## everything: static checks and all tests; says what was skipped and why
	@tools/deps || echo 'make test: going on without them; the tests that need them are skipped below'
	@$(MAKE) --no-print-directory static
	$(PYTEST) -ra --durations=15 tests

check: .venv/.installed-dev static ## before every commit: static checks and the quick tests, under 5 minutes
	$(PYTEST) -m 'not slow' $(QUICK)

static: .venv/.installed-dev ## lint, format, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

deps: ## install the programs that some tests and benchmarks compare with (rsync, b3sum, ...)
	@tools/deps

bench: .venv/.installed ## measure against the peers and rewrite docs/benchmarks.md; WORKLOADS="copy-small ..."
	@tools/deps || true
	$(BIN)/python -m tests.bench $(WORKLOADS) $(BENCH_OPTIONS)

mutations: .venv/.installed-dev ## put known defects into a copy of files and volumes, one by one, and see each one found
	$(BIN)/python tools/mutate_files.py
	$(BIN)/python -m tests.mutations.volumes

docs: .venv/.installed ## regenerate docs/reference
	$(BIN)/python tools/generate_reference.py

lock: .venv/.installed ## resolve the dependencies of pyproject.toml anew into requirements*.txt
	$(INSTALL) uv
	tools/lock $(BIN)/uv

clean: ## remove the environment and everything generated that is not in git
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@python=$$(tools/find-python) && echo "making .venv with $$python" && "$$python" -m venv .venv

# The environment of users: what holdfast needs to run, and itself, editable.
.venv/.installed: pyproject.toml requirements.txt | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# The environment of developers holds the same versions and more.
.venv/.installed-dev: pyproject.toml requirements-dev.txt | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements-dev.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch .venv/.installed $@
