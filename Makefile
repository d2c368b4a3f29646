# `make help` lists the targets. Each one makes the virtual environment in .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
SEARCH := runs/search
CONSTRAINTS := $(CURDIR)/constraints.txt
# Python compiles what is imported when it is imported, which is a small part of what is installed.
PIP_INSTALL := -m pip install -q --disable-pip-version-check --no-compile -c $(CONSTRAINTS)
# What it compiled is kept, whatever the environment says: the tests import PyTorch in dozens of processes.
export PYTHONDONTWRITEBYTECODE :=
# The theme's makers advertise their next generator on every build.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo search test test-slow tools test-dropin fuzz fuzz-coverage lint format docs tutorial check dependencies audit dist hooks clean
.DEFAULT_GOAL := help

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The constraints name the versions that were tested; torch is installed first, because its own
# requirements decide whether a CPU or a CUDA build is taken.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) torch
	$(BIN)/python $(PIP_INSTALL) -e '.[onnx]'
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(BIN)/python $(PIP_INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python $(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/python $(PIP_INSTALL) -e '.[docs]'
	@touch $@

demo: $(VENV)/.core ## Quantize an embedded CLIP without data at two schemes and measure what accuracy is left.
	$(BIN)/d4c run --model demo-rn --scheme W4A8 --scheme W4A4 --preset quick -o $(RUN)

search: $(VENV)/.core ## Export a quantized demo CLIP and find emoji by words: a page in runs/search.
	$(BIN)/d4c run --model demo-vit --scheme W4A8 --preset quick -o $(SEARCH)
	$(BIN)/d4c export $(SEARCH)/artifact -o $(SEARCH)/export
	$(BIN)/python examples/emoji_pictures.py $(SEARCH)/emoji
	$(BIN)/d4c search $(SEARCH)/export $(SEARCH)/emoji "a vehicle" --top 12 --html $(SEARCH)/page.html

# Each process begins with a part of its own, so that few fixtures are made twice, and takes from the others at the end.
test: $(VENV)/.test ## Run the tests (at most 10 minutes on 2 cores, installation included).
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/.test ## Run the tests that are too slow for every change.
	$(BIN)/python -m pytest -m slow

LAYOUTS := tests/deployment/layouts
TOOLS := build/dropin
NODE_MODULES := $(LAYOUTS)/node/node_modules

$(TOOLS)/.installed: $(LAYOUTS)/tools/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(NODE_MODULES)/.installed: $(LAYOUTS)/node/package.json
	npm install --ignore-scripts --prefix $(LAYOUTS)/node --no-audit --no-fund --no-package-lock --silent
	@touch $@

tools: $(TOOLS)/.installed $(NODE_MODULES)/.installed ## Install the tools that exports are for; needs Node and a network.

test-dropin: $(VENV)/.test tools ## Test exports for other tools with these tools themselves, in Chromium too if there is one.
	$(BIN)/python -m pytest -rs $(LAYOUTS)

FUZZ_SECONDS := 120
fuzz: $(VENV)/.test ## Attack every reader with changed files for two minutes (FUZZ_SECONDS); a finding fails.
	$(BIN)/python -m benchmarks.fuzz.measure --seconds $(FUZZ_SECONDS) --first $$(date +%s)

# Every target is a process of its own, since libFuzzer ends the one that it runs in.
FUZZ_TARGETS := JSON export.json safetensors prompts Parquet
fuzz-coverage: $(VENV)/.test ## Attack some readers (FUZZ_TARGETS) with inputs that reach new code, FUZZ_SECONDS each.
	$(BIN)/python $(PIP_INSTALL) -e '.[fuzz]'
	for target in $(FUZZ_TARGETS); do \
	  $(BIN)/python -m benchmarks.fuzz.coverage --target "$$target" --seconds $(FUZZ_SECONDS) || exit 1; done

lint: $(VENV)/.dev ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs ## Build the documentation into site/; a broken link or a missing table fails.
	$(BIN)/mkdocs build --strict

tutorial: $(VENV)/.docs ## Execute docs/tutorial.ipynb again, some minutes, and keep its outputs.
	$(BIN)/python -m jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False docs/tutorial.ipynb
	rm -r docs/tutorial

dependencies: $(VENV)/.dev $(VENV)/.docs ## Check that what is installed is pinned, consistent and permissively licensed.
	$(BIN)/python .ci/dependencies.py

check: lint test docs dependencies demo ## Everything that CI checks.

audit: dependencies ## Look for known vulnerabilities of the pinned versions; needs a network.
	$(BIN)/python .ci/audit.py

# Nothing but the wheel and what it asks for: what is missing from the package or its requirements shows here.
dist: $(VENV)/.dev ## Build the package, install it in an empty environment and run the demo from there.
	rm -rf dist build/empty
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv build/empty
	build/empty/bin/python $(PIP_INSTALL) torch
	build/empty/bin/python $(PIP_INSTALL) "$$(echo dist/*.whl)[quantize,onnx]"
	folder=$$(mktemp -d) && cd $$folder && \
	  $(CURDIR)/build/empty/bin/d4c run --model demo-vit --scheme W4A8 --preset quick -o demo && rm -r $$folder

hooks: $(VENV)/.dev ## Check format, lint and types before every commit.
	$(BIN)/pre-commit install

clean: ## Remove the environment and everything that was made.
	rm -rf $(VENV) runs build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
