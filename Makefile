# `make` lists the targets. Each one sets itself up: an own virtual environment in .venv, installed
# once and again when setup.cfg changes. Options: PYTHON=python3.12, VENV=/somewhere/else,
# ARGS="..." (passed on to the command), JOBS=2 (test processes).
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= auto
ARGS   ?=

BIN  := $(VENV)/bin
DEPS := setup.cfg pyproject.toml
SRC  := src tests benchmarks recipes docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest docs quality clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## greedy SubTuning on real images, no network, two to three minutes
	$(BIN)/subtuning demo $(ARGS)

test: $(VENV)/.installed-dev  ## all tests but those marked slow
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses=8 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev  ## the slow ones: several processes, whole commands
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses=8 -m slow $(ARGS)

test-lowest:  ## the fast tests with the oldest versions that setup.cfg allows, in .venv-lowest
	@test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[plots,demo,timm,test]'
	.venv-lowest/bin/python -m pytest -n $(JOBS) --maxprocesses=8 -m "not slow" $(ARGS)

docs: $(VENV)/.installed-docs  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)

quality: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check $(SRC)
	$(BIN)/mypy

clean:  ## remove the environment, caches and demo output
	rm -rf $(VENV) .venv-lowest build dist site src/*.egg-info demo_output .pytest_cache .ruff_cache .mypy_cache
	find $(SRC) -name __pycache__ -type d -prune -exec rm -rf {} +

# The version is checked before anything is created, so that a failure leaves nothing behind.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or newer is needed, '$(PYTHON)' is `$(PYTHON) -V 2>&1`. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot create environments. Install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(DEPS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.installed-docs: $(DEPS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/.installed-dev: $(DEPS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[plots,demo,timm,docs,test,quality]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs
