# Every command a user or developer types. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
INSTALLED := $(VENV)/.installed
# Any Python 3.12 will do; name another one with `make BASE_PYTHON=/path/to/python3.12 ...`
BASE_PYTHON ?= $(shell for p in python3.12 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1 && echo "$$p" && break; done)
# For commands that need no set-up: the project's Python if it exists, or else the base Python.
ANY_PYTHON = $(shell if [ -x $(PYTHON) ]; then echo $(PYTHON); else echo "$(BASE_PYTHON)"; fi)
NO_PYTHON := error: Python 3.12 was not found; install it, or name it: make BASE_PYTHON=/path/to/python3.12

export PYTHONUNBUFFERED := 1

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what the targets below need

.PHONY: _any-python
_any-python:
	@if [ -z "$(ANY_PYTHON)" ]; then echo "$(NO_PYTHON)" >&2; exit 1; fi

$(INSTALLED): requirements.txt
	@if [ -z "$(BASE_PYTHON)" ]; then echo "$(NO_PYTHON)" >&2; exit 1; fi
	@$(BASE_PYTHON) -m scripts.install

##@ Run

.PHONY: demo
demo: setup ## Set everything up and run the whole pipeline (EVENTS=file.jsonl.gz for your events, SEED=n)
	@$(PYTHON) -m demo $(if $(EVENTS),--events "$(EVENTS)") $(if $(SEED),--seed $(SEED))

.PHONY: publish
publish: setup ## Publish a file of events to the running stack (FILE=events.jsonl.gz)
	@if [ -z "$(FILE)" ]; then echo "error: name a file of events: make publish FILE=events.jsonl.gz" >&2; exit 2; fi
	@$(PYTHON) -m demo.publish "$(FILE)"

##@ Local servers

.PHONY: up
up: setup ## Start every server and wait until each one answers
	@$(PYTHON) -m stack up

# From here to doctor: no set-up. These must work offline, and must never change what the servers run on.
.PHONY: down
down: _any-python ## Stop every server
	@$(ANY_PYTHON) -m stack down

.PHONY: status
status: _any-python ## Show the servers, and the lag and last batch of each shard
	@$(ANY_PYTHON) -m stack status

.PHONY: logs
logs: _any-python ## Show the last lines of the servers' logs (SERVER=name for one server)
	@$(ANY_PYTHON) -m stack logs $(SERVER)

.PHONY: reset
reset: _any-python ## Stop the servers and delete their data; downloads are kept
	@$(ANY_PYTHON) -m stack reset

.PHONY: doctor
doctor: _any-python ## Check Python, packages, ports, disk, memory and file ownership
	@$(ANY_PYTHON) -m stack doctor

##@ Develop

.PHONY: setup
setup: $(INSTALLED) ## Create the virtual environment (.venv) and install everything into it

.PHONY: check
check: setup ## Run the linter, the type checker and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --num-workers 2 include stack demo dags plugins scripts tests
	@$(BIN)/lint-imports

.PHONY: format
format: setup ## Fix what the linter can fix, and format every Python file
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: unit
unit: setup ## Run the tests that need no server
	@$(PYTHON) -m pytest tests/unit tests/dags

.PHONY: test
test: setup check ## Run every check and every test
	@$(PYTHON) -m pytest

.PHONY: histories
histories: setup ## Check 100,000 random histories of a shard in memory (COUNT=n, SEED=n)
	@$(PYTHON) -m scripts.histories $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

.PHONY: chaos
chaos: setup ## Check that no fault loses or doubles an event, on a stack of its own (SECONDS=900, SEED=n)
	@$(PYTHON) -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

.PHONY: quality
quality: setup ## Compare the learned ranking with its peers (EVENTS=file CUT=date|leave-last-20%|random-20%:seed)
	@if [ -z "$(EVENTS)" ] || [ -z "$(CUT)" ]; then \
		echo "error: say what to rank: make quality EVENTS=events.jsonl.gz CUT=2011-10-01" >&2; exit 2; fi
	@$(PYTHON) -m scripts.run_uv pip install --quiet --python $(PYTHON) --require-hashes -r requirements-quality.txt
	@$(PYTHON) -m tests.quality --events "$(EVENTS)" --cut "$(CUT)"

.PHONY: new-sink
new-sink: setup ## Write a new sink and its test from a template (NAME=search)
	@if [ -z "$(NAME)" ]; then echo "error: name the sink: make new-sink NAME=search" >&2; exit 2; fi
	@$(PYTHON) scripts/new_sink.py "$(NAME)"

.PHONY: requirements
requirements: setup ## Compile requirements*.txt from their .in files
	@for name in requirements requirements-audit requirements-quality; do \
		$(PYTHON) -m scripts.run_uv pip compile --quiet --universal --python-version 3.12 --generate-hashes \
			--no-emit-index-url --no-annotate --custom-compile-command "make requirements" $$name.in -o $$name.txt \
			|| exit 1; \
	done

.PHONY: audit
audit: _any-python ## Compare the pinned packages with known security advisories (needs an advisory service)
	@$(ANY_PYTHON) -m scripts.audit

.PHONY: clean
clean: ## Delete the virtual environment and caches; data and downloads are kept
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m scripts.refuse_while_running; fi
	@rm -rf $(VENV) .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

##@ Measure

.PHONY: bench-replay
bench-replay: setup ## Ingest online-retail, and replay it (EVENTS=number of lines)
	@$(PYTHON) tests/benchmarks/bench_replay.py $(if $(EVENTS),--events $(EVENTS))

.PHONY: bench
bench: setup ## Measure ingest, embedding and the reader on this machine; see docs/benchmarks.md
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(PYTHON) $$bench || exit 1; done
