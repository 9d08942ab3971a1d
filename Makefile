# Trivium's few commands; `make` by itself lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A shim of that name may be on PATH and not work, so uv has to answer before it is used.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format constraints clean distclean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-demo ## run the whole pipeline on the embedded data; a second run goes on where the first stopped
	$(BIN)/python -m stages.demo run

test: $(VENV)/.installed-dev ## run the tests (CPU, minutes, no network)
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev ## check style, format, the arrows between packages, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: ## pin anew what constraints.txt pins, at today's newest versions (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --upgrade --quiet \
	  --no-header --no-annotate --no-emit-index-url --output-file constraints.new
	{ grep '^#' constraints.txt; grep -v '^#' constraints.new; } > constraints.next
	mv constraints.next constraints.txt && rm constraints.new

clean: ## remove the demo's results, so that the next `make demo` starts anew
	rm -rf runs/demo

distclean: clean ## remove the environment, build products and caches as well; other runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# The environment is made once. `dev` holds all that `demo` needs, so it counts as both.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
ifdef UV
	uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$*]'
else
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
endif
	@touch $@ $(if $(filter dev,$*),$(VENV)/.installed-demo)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo 'error: no $(PYTHON) found. Trivium needs Python 3.10 or newer: install it, or name one: make PYTHON=python3.12 …' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old. Trivium needs Python 3.10 or newer; name one: make PYTHON=python3.12 …" >&2; exit 2; }
ifdef UV
	uv venv --quiet --seed --allow-existing --python '$(shell command -v $(PYTHON))' $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif
