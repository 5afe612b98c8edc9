PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= configs/study/fashion.yaml

.PHONY: study test lint format gpu clean

study: $(VENV)/.installed
	$(BIN)/trigscale study run $(STUDY)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What only a GPU can show, in under nine minutes. Needs torch, triton, pytest and hypothesis in PYTHON, and no installation.
gpu:
	$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "make gpu needs a CUDA device, torch sees none")'
	$(PYTHON) -m pytest tests/gpu
	PYTHONPATH=. $(PYTHON) benchmarks/attention.py

# constraints.txt holds the exact versions that were tested; without it pip may replace a CPU torch by the CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trigscale needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
