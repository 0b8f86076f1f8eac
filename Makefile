# Every target works on a fresh clone: it makes the virtual environment it needs. No C compiler is used.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
SHELL  := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow fuzz fuzz-artifacts mutants lint format suite bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; it is renewed when the dependencies change.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

demo: $(VENV)/.bench  ## fetch a small real model, compile it, check it and time it against onnxruntime
	$(BIN)/python -m benchmarks.demo

test: $(VENV)/.dev  ## the default test suite
	$(BIN)/python -m pytest -n $(JOBS) -m 'not slow'

test-slow: $(VENV)/.dev  ## the tests left out of the default suite
	$(BIN)/python -m pytest -n $(JOBS) -m slow

fuzz: $(VENV)/.dev  ## random programs under random schedules until one fails, which is then minimised
	$(BIN)/python -m tests.fuzz

mutants: $(VENV)/.dev  ## seed bugs one at a time and see the fuzzer find each
	$(BIN)/python -m tests.fuzz.mutation

fuzz-onnx: $(VENV)/.dev  ## hostile ONNX files; whatever is not success or one clear error is minimised
	$(BIN)/python -m tests.frontend.fuzz_onnx --jobs $(JOBS) --count 50000

fuzz-artifacts: $(VENV)/.dev  ## hostile artifacts; all must load or end in one clear error
	$(BIN)/python -m tests.runtime.artifact_fuzz --count 50000

lint: $(VENV)/.dev  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## sort imports and apply safe fixes
	$(BIN)/ruff check --fix .

suite: $(VENV)/.dev  ## ONNX's own backend suite through compiled code, beside onnxruntime
	$(BIN)/python -m benchmarks.onnx_suite --against onnxruntime

bench: $(VENV)/.bench  ## operators and whole models against onnxruntime and OpenVINO
	$(BIN)/python -m benchmarks.operators --threads 1
	$(BIN)/python -m benchmarks.models --threads 1,2

clean:  ## remove the virtual environment and the tools' caches (not the compile cache)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
