# make demo | make test | make lint | make clean. Needs Python >= 3.11 and the package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo

.PHONY: install demo test lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt fastfashion/load/_native.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; say which to use: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/fastfashion synth --rows 1200 --res 120x160 --out $(DEMO)/synth
	$(BIN)/fastfashion shard --source $(DEMO)/synth --res 64 --out $(DEMO)/shards
	$(BIN)/fastfashion train --shards $(DEMO)/shards --task subCategory --model resnet18 --no-pretrained --size 64x48 \
		--epochs 10 --batch-size 32 --nproc 2 --out $(DEMO)/runs --name demo
	$(BIN)/fastfashion evaluate $(DEMO)/runs/demo

test: install
	$(BIN)/python -m pytest -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
