# `make demo` and `make test` set up whatever they need; nothing else has to be run first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet
STAMP := .venv/.installed
# Processes that `make test` spreads the test files over, each with a Ray of its own.
WORKERS ?= 2

.PHONY: install demo test bench wheel lower-bounds constraints clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip

# TorchRec asks for a CUDA build of fbgemm by name; the build that fits the installed PyTorch is taken instead.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --constraint constraints.txt --editable '.[recsys,devices,trackers,test]'
	$(BIN)/python -m manynet.learning.torchrec_setup | xargs $(PIP) --no-deps
	touch $(STAMP)

demo: install
	$(BIN)/manynet run examples/vit-digits.yaml

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Goes on past a benchmark that fails, and says at the end which did. BENCH=--quick runs small sizes.
bench: install
	failed=; for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python $$script $(BENCH) || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "missed a bar or did not run:$$failed"; exit 1; }

# Without what an older build left: it would be taken into the wheel.
wheel: | $(BIN)/python
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build .

# Resolves the lowest versions that pyproject.toml takes, and installs none.
lower-bounds: | $(BIN)/python
	$(PIP) packaging 'uv>=0.9,<1'
	$(BIN)/python tools/lower_bounds.py

# After `make test` has passed with newer versions.
constraints: install
	$(BIN)/python tools/tested_set.py >constraints.new && mv constraints.new constraints.txt

clean:
	rm -rf .venv build platform/*.egg-info
