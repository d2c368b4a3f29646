# `make help` lists the targets. Each one makes the virtual environment in .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: help demo test test-slow lint format docs clean
.DEFAULT_GOAL := help

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The constraints name the versions that were tested; torch is installed first, because its own
# requirements decide whether a CPU or a CUDA build is taken.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/.core ## Quantize the embedded demo CLIP without data and measure what accuracy is left.
	$(BIN)/d4c run --model demo-vit --scheme W4A8 --preset quick -o $(RUN)

test: $(VENV)/.dev ## Run the tests (at most 10 minutes on 2 cores, installation included).
	$(BIN)/python -m pytest -n logical --maxprocesses 4

test-slow: $(VENV)/.dev ## Run the tests that are too slow for every change.
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## Build the documentation into site/; a broken link or a missing table fails.
	$(BIN)/mkdocs build --strict

clean: ## Remove the environment and everything that was made.
	rm -rf $(VENV) runs build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
