# Everything that one does with this checkout. Each target installs what it needs into .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/ready
# The system's own settings must not leak into ours: the environment decides nothing but what is named here.
unexport PYTHONPATH PYTHONHOME
export PATH := $(CURDIR)/$(BIN):$(PATH)

ARGS ?=
# Most tests wait for processes more than they compute: several at once, a file's tests together.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

.PHONY: help setup demo up test unit check lint types imports bench bench-core fmt protos docs lock clean

help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock tools/setup.sh $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@sh tools/setup.sh

##@ Use
setup: $(READY) ## Install everything into .venv

demo: $(READY) ## Three example journeys, end to end, in one screen (ARGS="--mailbox DIR")
	@$(BIN)/cairn demo $(ARGS)

up: $(READY) ## The four services and a Postgres, until Ctrl-C (ARGS="--help")
	@$(BIN)/cairn up $(ARGS)

##@ Test
test: $(READY) ## All tests, in some minutes (ARGS="-k wait")
	@$(PYTEST) $(ARGS)

unit: $(READY) ## The tests that need no other process, in a minute
	@$(PYTEST) tests/unit tests/property $(ARGS)

check: $(READY) lint types imports ## Everything that CI does
	@$(BIN)/python tools/protos.py --check
	@$(BIN)/python tools/settings.py --check
	@$(BIN)/python tools/lock.py --check
	@$(PYTEST)

lint: $(READY) ## Style of Python and protos, and that the contract stays compatible
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@cd protos && buf lint && buf format --diff --exit-code && buf breaking --against baseline.binpb

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

imports: $(READY) ## Who may import whom
	@$(BIN)/lint-imports --no-cache

bench: $(READY) ## Speed and memory of real processes, each profile judged (ONLY=carts,spread SCALE=0.1 JSON=FILE)
	@$(BIN)/python tests/bench/bench.py $(if $(ONLY),--only $(ONLY)) $(if $(SCALE),--scale $(SCALE)) $(if $(JSON),--json $(JSON))

bench-core: $(READY) ## What the core costs: an input, a state, a compilation, 91 days (ARGS="--json FILE")
	@$(BIN)/python tests/bench/bench_core.py $(ARGS)

##@ Change
fmt: $(READY) ## Format Python and protos, and mend what can be mended
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format
	@cd protos && buf format --write

protos: $(READY) ## Make the stubs in libs/api from protos/
	@$(BIN)/python tools/protos.py

docs: $(READY) ## Make the settings tables in the READMEs
	@$(BIN)/python tools/settings.py

lock: $(READY) ## Pin the dependencies anew
	@$(BIN)/python tools/lock.py

clean: ## Remove .venv and all caches
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
