# make demo: the newcomer's first command; make test; make check: what must be green before a change lands.
PYTHON ?= python3
VENV ?= .venv
RUNTIME ?= .venv-runtime
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
TYPES := build/types
ENGINE_TESTS := tests/engine tests/commands tests/fuzz
# What needs matplotlib, torch or onnx, and what would notice that torch beside the engine breaks something.
SMOKE_TESTS := tests/engine/test_curves.py tests/engine/test_decompose.py tests/engine/test_engine.py \
	$(addprefix tests/commands/test_,compare.py curves.py escapes.py export.py outputs.py) \
	$(addprefix tests/fuzz/test_,checkpoints.py yaml.py)

.PHONY: demo test test-runtime test-rest check docs bench fuzz format lint types model clean

demo: $(VENV)/.runtime
	$(BIN)/simmap compare models/photos/buddha_a.jpg models/photos/buddha_b.jpg --force

# All tests, in one environment.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

# The tests of engine and command line, in an environment without torch, onnx or anything else of export's.
test-runtime: $(RUNTIME)/.test
	! $(RUNTIME)/bin/python -c 'import torch' 2>/dev/null
	! $(RUNTIME)/bin/python -c 'import onnx' 2>/dev/null
	$(RUNTIME)/bin/python -m pytest -n auto $(ENGINE_TESTS)

# The others, and some of these beside torch.
test-rest: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto $(SMOKE_TESTS) tests/export $(wildcard tests/test_*.py)

check: lint types docs test-runtime test-rest

# One table of ratios; more with, for example: make bench BENCH="--full --json bench.json --plot growth.png"
bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

# All fuzzers with fresh seeds on all cores; findings lie below build/fuzz.
MINUTES ?= 30
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py --minutes $(MINUTES)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	mkdir -p $(TYPES) && ln -sfn ../.. $(TYPES)/simmap
	MYPYPATH=$(TYPES) $(BIN)/mypy --strict -p simmap.engine -p simmap.export -p simmap.commands -m simmap.cli

# The documentation with the API reference, into build/site; a broken link is an error.
docs: $(VENV)/.dev
	mkdir -p build/docs/simmap && ln -sfn ../../../engine build/docs/simmap/engine
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Rebuild the model that ships, from the weights' own package.
model: $(VENV)/.dev
	$(BIN)/simmap export configs/efficientnet_lite0.yaml -o models/efficientnet_lite0.onnx --force

clean:
	rm -rf $(VENV) $(RUNTIME) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache

%/.runtime: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -e '.[cpu]'
	touch $@

$(RUNTIME)/.test: $(RUNTIME)/.runtime
	$(RUNTIME)/bin/python $(PIP) hypothesis pytest pytest-xdist
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python $(PIP) -e '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(BIN)/python $(PIP) -e '.[bench]'
	touch $@
