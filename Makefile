# Everything here works on a fresh machine with Python 3.11+ and a network to the package index.
#   make demo    create the environment, generate with the embedded model
#   make test    create the environment, run the whole suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
export JAX_PLATFORMS ?= cpu

.PHONY: demo test check lint types imports train clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/lynx-jax generate --stats --policy lynx:alpha=3,beta=2 --prompts examples/demo_prompts.txt

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

check: lint types imports

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev $(VENV)/.installed-test
	$(BIN)/pyright

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .work dist build
