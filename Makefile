PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

READY = $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow faults gpu lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make a virtual environment and install edlm in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check \
		-c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## run the demo (ARGS="--key value")
	$(VENV)/bin/edlm demo $(ARGS)

test: $(READY)  ## run the tests and doctests on all cores (ARGS="-k name")
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(READY)  ## run the slow tests (that of the report needs chromium and chromium-driver)
	$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev,browser]"
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

faults: $(READY)  ## try damaged inputs, full disks and kills; print a table (ARGS="disk" for the kinds with that name)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -W ignore -m tests.faults $(ARGS)

gpu: $(READY)  ## test, time and train on a GPU within MINUTES=9, into OUT=DIR; exit code 3 without one
	PYTHON=$(VENV)/bin/python OUT=$(OUT) MINUTES=$(or $(MINUTES),9) .ci/gpu

lint: $(READY)  ## check style with ruff
	$(VENV)/bin/ruff check $(ARGS)
	$(VENV)/bin/ruff format --check

clean:  ## remove the environment, caches and build files
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
