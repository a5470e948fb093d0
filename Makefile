# `make demo` and `make test` set up whatever they need; nothing else has to be run first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TORCHREC := 1.8.0

.PHONY: install demo test bench clean

install: $(STAMP)

# TorchRec asks for a CUDA build of fbgemm by name; the build that fits the installed PyTorch is taken instead.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[recsys,devices,trackers,test]'
	$(BIN)/python -m pip install --quiet --no-deps torchrec==$(TORCHREC)
	$(BIN)/python -c 'import torch; print("fbgemm-gpu" if torch.version.cuda else "fbgemm-gpu-cpu", end="==$(TORCHREC)")' \
		| xargs $(BIN)/python -m pip install --quiet --no-deps
	touch $(STAMP)

demo: install
	$(BIN)/manynet run examples/vit-digits.yaml

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

# Goes on past a benchmark that fails, and says at the end which did. BENCH=--quick runs small sizes.
bench: install
	failed=; for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python $$script $(BENCH) || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "missed a bar or did not run:$$failed"; exit 1; }

clean:
	rm -rf .venv build *.egg-info
