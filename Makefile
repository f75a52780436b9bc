# Everything a contributor runs. Needs make and Python >= 3.11, or uv; the rest is brought along into .venv.
# Choose the interpreter with PYTHON=..., pass arguments on with ARGS="...", use another environment with BIN=its/bin.

SHELL := /bin/sh
BIN := .venv/bin
ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help env test test-local-model lint format types docs coverage tox faults bench bench-sweep bench-calls bench-stats bench-dashboard demo screenshots wheel constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

env: ## Make .venv, or bring it up to date
ifneq ($(origin BIN),command line)
	@scripts/bootstrap dev
endif

test: env ## Run the suite on every database and broker, then lint, types and docs (ARGS go to pytest)
	@exec $(BIN)/python -m scripts.run_tests $(ARGS)

lint: env ## Check style, formatting and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

format: env ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: env ## Check the types
	@$(BIN)/mypy

docs: env ## Build the documentation, warnings as errors
	@$(BIN)/sphinx-build -q -W -n -b html docs docs/_build/html

coverage: env ## Measure branch coverage on SQLite and PostgreSQL
	@rm -f .coverage .coverage.*
	@BATON_TEST_DB=sqlite $(BIN)/python -m coverage run -m pytest -q $(ARGS)
	@BATON_TEST_DB=postgres $(BIN)/python -m coverage run -m pytest -q $(ARGS)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

tox: env ## Run the suite on every Python and Django that this machine has (ARGS go to tox)
	@exec $(BIN)/python -m scripts.run_tox $(ARGS)

faults: env ## Strike real processes at every place and around paid calls, and print how the runs get over it
	@exec $(BIN)/python -m scripts.faults $(ARGS)

test-local-model: env ## Follow the guide to local servers with a real small model (brings 130 MB along, for once)
	@exec $(BIN)/python -m scripts.local_model $(ARGS)

bench: env ## Measure Baton against raw django-q2
	@exec $(BIN)/python -m benchmarks $(ARGS)

bench-sweep: env ## Measure the sweep and retention beside a million old steps
	@exec $(BIN)/python -m benchmarks.sweep $(ARGS)

bench-calls: env ## Measure what the ledger adds to a call of a language model
	@exec $(BIN)/python -m benchmarks.calls $(ARGS)

bench-stats: env ## Measure totals over a million calls of language models
	@exec $(BIN)/python -m benchmarks.stats $(ARGS)

bench-dashboard: env ## Measure the dashboard on real servers and in a real browser (needs Chromium)
	@exec $(BIN)/python -m benchmarks.dashboard $(ARGS)

demo: ## Run a real workflow with real workers (ARGS=--exit stops when it is done)
	@scripts/bootstrap demo
	@exec $(BIN)/python -m scripts.demo $(ARGS)

screenshots: env ## Make the documentation's pictures of the dashboard (ARGS=folder puts them elsewhere; needs Chromium)
	@exec $(BIN)/python -m scripts.screenshots $(ARGS)

wheel: env ## Build the wheel into dist/
	@$(BIN)/python -m hatchling build -t wheel

constraints: env ## Renew the versions that .venv is made of
	@$(BIN)/uv pip compile --quiet --universal --upgrade --no-header --no-annotate --all-extras --group dev \
		pyproject.toml -o requirements/constraints.txt

clean: ## Remove everything that is not in git's keeping, .venv included
	@rm -rf .venv .tox .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist htmlcov docs/_build
	@rm -f .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
