# Everything a user types. `make help` lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
INSTALLED := $(VENV)/.installed
# Any Python 3.12 will do; name another with `make BASE_PYTHON=/path/to/python3.12 ...`
BASE_PYTHON ?= $(shell for p in python3.12 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1 && echo "$$p" && break; done)

export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(INSTALLED): requirements.txt
	@if [ -z "$(BASE_PYTHON)" ]; then \
		echo "error: Python 3.12 is needed and was not found; install it, or name it: make BASE_PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@date +%s.%N > .setup-began
	@if [ ! -x $(PYTHON) ]; then echo "making $(VENV)"; $(BASE_PYTHON) -m venv $(VENV) || { \
		echo "error: this Python cannot make virtual environments; install its venv and ensurepip modules (Debian: python3.12-venv)" >&2; \
		rm -rf $(VENV) .setup-began; exit 1; }; fi
	@echo "installing the packages of requirements.txt (a few minutes and 7 GB the first time)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check uv || { \
		echo "error: the package registry cannot be reached; see the lines above" >&2; exit 1; }
	@$(BIN)/uv pip install --quiet --python $(PYTHON) -r requirements.txt || { \
		echo "error: the packages could not be installed; check the network and the disk (make doctor) and run this again" >&2; exit 1; }
	@python_seconds=$$(awk "BEGIN {print $$(date +%s.%N) - $$(cat .setup-began)}"); rm -f .setup-began; echo $$python_seconds > $@

.PHONY: setup
setup: $(INSTALLED) ## Make the virtual environment (.venv) and install everything into it

.PHONY: demo
demo: setup ## Set everything up and run the main job to the end (EVENTS=file.jsonl.gz feeds a file, SEED=n another shop)
	@$(PYTHON) -m demo $(if $(EVENTS),--events "$(EVENTS)") $(if $(SEED),--seed $(SEED))

.PHONY: publish
publish: setup ## Publish a file of events into the running stack: make publish FILE=events.jsonl.gz
	@if [ -z "$(FILE)" ]; then echo "error: name a file of events: make publish FILE=events.jsonl.gz" >&2; exit 2; fi
	@$(PYTHON) -m demo.publish_file "$(FILE)"

.PHONY: up
up: setup ## Start every server and wait until each answers
	@$(PYTHON) -m stack up

.PHONY: down
down: setup ## Stop every server
	@$(PYTHON) -m stack down

.PHONY: status
status: setup ## Show servers, lag and the last batch of each shard
	@$(PYTHON) -m stack status

.PHONY: logs
logs: setup ## Show the servers' log files (SERVER=name shows the end of one)
	@$(PYTHON) -m stack logs $(SERVER)

.PHONY: reset
reset: setup ## Stop the servers and delete their data; downloads are kept
	@$(PYTHON) -m stack reset

.PHONY: doctor
doctor: setup ## Check Python, ports, disk, memory and ownership
	@$(PYTHON) -m stack doctor

.PHONY: test
test: setup check ## Run every check and every test
	@$(PYTHON) -m pytest

.PHONY: check
check: setup ## Run the linters, the type checker and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy include stack demo dags plugins scripts tests
	@$(BIN)/lint-imports

.PHONY: unit
unit: setup ## Run the tests that need no server
	@$(PYTHON) -m pytest tests/unit tests/dags

.PHONY: bench
bench: setup ## Measure ingest, embedding and reader on this machine; see docs/benchmarks.md
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(PYTHON) $$bench || exit 1; done

.PHONY: requirements
requirements: setup ## Compile requirements.txt from requirements.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.12 --no-emit-index-url --no-annotate \
		--custom-compile-command "make requirements" requirements.in -o requirements.txt

.PHONY: clean
clean: ## Delete the virtual environment and caches; data and downloads stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .setup-began
