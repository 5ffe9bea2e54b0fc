# make demo: the newcomer's first command; make test; make check: what must be green before a change lands.
PYTHON ?= python3
VENV ?= .venv
RUNTIME ?= .venv-runtime
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
TYPES := build/types
NODE := build/node
TYPESCRIPT := 5.9.3
ORT_WEB := 1.30.0
ENGINE_TESTS := tests/engine tests/commands tests/fuzz tests/server tests/page
# What needs matplotlib, torch or onnx, and what would notice that torch beside the engine breaks something.
SMOKE_TESTS := tests/engine/test_curves.py tests/engine/test_decompose.py tests/engine/test_engine.py \
	$(addprefix tests/commands/test_,compare.py curves.py escapes.py export.py outputs.py) \
	$(addprefix tests/fuzz/test_,checkpoints.py yaml.py)

.PHONY: demo test test-runtime test-rest check docs page bench fuzz mutants soak format lint types model clean

demo: $(VENV)/.runtime
	$(BIN)/simmap compare models/photos/buddha_a.jpg models/photos/buddha_b.jpg -o similarity-demo.png --force

# All tests, in one environment.
test: $(VENV)/.dev $(NODE)/.installed
	$(BIN)/python -m pytest -n auto

# The tests of engine, command line, server and page, without torch, onnx or anything else of export's.
test-runtime: $(RUNTIME)/.test $(NODE)/.installed
	! $(RUNTIME)/bin/python -c 'import torch' 2>/dev/null
	! $(RUNTIME)/bin/python -c 'import onnx' 2>/dev/null
	$(RUNTIME)/bin/python -m pytest -n auto $(ENGINE_TESTS)

# The others, and some of these beside torch.
test-rest: $(VENV)/.dev $(NODE)/.installed
	$(BIN)/python -m pytest -n auto $(SMOKE_TESTS) tests/export tests/edge $(wildcard tests/test_*.py)

check: lint types page docs test-runtime test-rest

# One table of ratios; more with, for example: make bench BENCH="--full --json bench.json --plot growth.png"
bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

# All fuzzers with fresh seeds on all cores; findings lie below build/fuzz.
MINUTES ?= 30
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py --minutes $(MINUTES)

# Small changes of the code that no test notices; for example: make mutants MUTANTS="export --count 150 --seed 3"
MUTANTS ?= engine --count 300
mutants: $(VENV)/.dev
	$(BIN)/python tests/mutation/run.py $(MUTANTS)

# Mixed load with bad input on a server for MINUTES: growth of memory, threads and descriptors.
soak: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/soak.py --minutes $(MINUTES)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	mkdir -p $(TYPES) && ln -sfn ../.. $(TYPES)/simmap
	MYPYPATH=$(TYPES) $(BIN)/mypy --strict -p simmap.engine -p simmap.export -p simmap.commands -p simmap.server -m simmap.cli

# The types of the page's modules.
page: $(NODE)/.installed
	$(NODE)/node_modules/.bin/tsc --project server/page

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
	$(RUNTIME)/bin/python $(PIP) -e '.[cpu,server,milvus,postgres,ray,test]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python $(PIP) -e '.[dev]'
	touch $@

# The compiler that checks the page's types, and the runtime of the page's tests.
$(NODE)/.installed: Makefile
	mkdir -p $(NODE)
	if command -v npm >/dev/null; then npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix $(NODE) \
		typescript@$(TYPESCRIPT) onnxruntime-web@$(ORT_WEB) && touch $@; \
	else echo "no npm: tests of the page are skipped; install it with: apt-get install npm"; fi

$(VENV)/.bench: $(VENV)/.runtime
	$(BIN)/python $(PIP) -e '.[bench]'
	touch $@
