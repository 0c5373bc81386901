# make demo | make test | make test-slow | make docs | make lint | make fuzz | make wheel | make release | make clean. Needs Python >= 3.11 and the package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two stamps: the demo needs fastfashion and its page, tests and lint all that is in [dev], which the demo's is a part of.
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
NEEDED := pyproject.toml setup.py constraints.txt $(wildcard fastfashion/images/native/*.[ch]) tools/install.py
DEMO := demo
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0

.PHONY: install base demo test test-slow docs lint fuzz wheel release clean python

install: $(DEV)

base: $(BASE)

$(DEV): $(NEEDED) | python
	$(PYTHON) tools/install.py $(VENV) dev
	touch $(BASE) $@

$(BASE): $(NEEDED) | python
	$(PYTHON) tools/install.py $(VENV) $(if $(wildcard $(DEV)),dev,all)
	touch $@ $(wildcard $(DEV))

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; say which to use: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }

demo: base
	rm -rf $(DEMO)
	$(BIN)/fastfashion synth --rows 1200 --size 160x120 --out $(DEMO)/synth
	$(BIN)/fastfashion shard --source $(DEMO)/synth --res 64 --out $(DEMO)/shards
	$(BIN)/fastfashion train $(DEMO)/shards --task subCategory --model resnet18 --no-pretrained --size 64x48 \
		--epochs 6 --batch-size 32 --nproc 2 --runs $(DEMO)/runs --name demo
	$(BIN)/fastfashion evaluate $(DEMO)/runs/demo

test: install
	$(BIN)/python -m pytest -q --randomly-seed=1

# What `make test` leaves out; tests that need a GPU, a browser or the internet are skipped where there is none.
test-slow: install
	$(BIN)/python -m pytest -q -p no:randomly -m "slow or browser or dist or gpu or net"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/plain_words.py

# The pages of docs/ in build/site; a broken link is an error.
docs: install
	$(BIN)/mkdocs build --strict

# The native code under AddressSanitizer and UndefinedBehaviorSanitizer, which come with gcc: through Python, then our own decoder in C alone.
fuzz: install
	$(BIN)/python tools/fuzz_native.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)
	$(BIN)/python tools/fuzz_jpeg.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

# An sdist and a wheel with libjpeg-turbo linked in, in dist/, tried in empty environments (docs/releases.md). Needs cmake and nasm.
wheel: install
	$(BIN)/python tools/make_wheel.py

# All that a release must pass, and what to upload; uploads nothing.
release: install
	$(BIN)/python tools/release.py check
	$(MAKE) lint test docs
	$(BIN)/python tools/release.py package

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
