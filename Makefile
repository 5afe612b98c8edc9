PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= configs/study/fashion.yaml
# `make latents`: where its images and latents go, how many, and keys of its study (KEYS="sizes=[xs] teacher.steps=50").
ENLARGED := runs/enlarged
IMAGES ?= 10000
HELD_OUT ?= 2000
KEYS ?=

SECONDS ?= 3600
# What a change most often breaks: order of imports, configuration, networks, attention, losses, one process that trains
# and saves, checkpoints, shards, the analysis. No process is started.
QUICK := tests/test_imports.py tests/test_sampling.py tests/analysis tests/config tests/data_pipeline tests/models \
         tests/kernels/test_chunked.py tests/kernels/test_derivatives.py tests/kernels/test_judge.py \
         tests/kernels/test_refusals.py tests/plan/test_budget.py tests/plan/test_devices.py tests/plan/test_memory.py \
         tests/slurm_local/test_job_graph.py tests/study/test_plan_status.py tests/training/test_checkpoint.py \
         tests/training/test_ema.py tests/training/test_objectives.py tests/training/test_parallel.py \
         tests/training/test_posthoc.py tests/training/test_randomness.py tests/study/test_trainer_resume.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

.PHONY: study latents test quick nightly slurm slurm-nightly lint format gpu docs dist clean

study: $(VENV)/.installed
	$(BIN)/trigscale study run $(STUDY)

# The road of imagenet512.yaml on a laptop: images in zips, their latents by a VAE, its constants, the study.
latents: $(ENLARGED)/encoder.yaml
	$(BIN)/trigscale study run configs/study/latents.yaml $(KEYS)

$(ENLARGED)/train.zip: | $(VENV)/.installed
	$(BIN)/python -m scaling.data.enlarged --to $(ENLARGED) --train $(IMAGES) --held-out $(HELD_OUT)

ENCODE := --vae $(ENLARGED)/vae --encoder enlarged-v1 --new --size 64
$(ENLARGED)/encoder.yaml: $(ENLARGED)/train.zip
	$(BIN)/trigscale data encode $(ENLARGED)/train.zip $(ENCODE) --to $(ENLARGED)/train
	$(BIN)/trigscale data encode $(ENLARGED)/held-out.zip $(ENCODE) --to $(ENLARGED)/held-out
	$(BIN)/trigscale data info $(ENLARGED)/train --fit-encoder $@

test: $(VENV)/.installed
	$(PYTEST)

# Under a minute on two cores.
quick: $(VENV)/.installed
	$(PYTEST) -m 'not nightly and not slow' $(QUICK)

# The rest of the tables of which `make test` has a part; tests that SECONDS leave no time for are counted as skipped.
nightly: $(VENV)/.installed
	$(PYTEST) -m 'nightly and not slurm' --seconds $(SECONDS)

# On a real SLURM of this machine, installed where that is possible; where it is not, the tests are skipped and say so.
slurm: $(VENV)/.installed
	-tests/slurm/install.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'slurm and not nightly' tests/slurm

slurm-nightly: $(VENV)/.installed
	-tests/slurm/install.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slurm tests/slurm

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

# The site of README.md, docs/ and the docstrings: build/site/index.html.
PAGES := *.md docs/*.md docs/*.png docs/reference/*.md benchmarks/results/*.md scaling/evaluation/expansion.py
docs: $(VENV)/.installed
	rm -rf build/docs build/site
	mkdir -p build/docs
	cp --parents $(PAGES) build/docs
	$(BIN)/python -m mkdocs build

# The wheel and the source distribution, made from it, in dist/.
dist: $(VENV)/.installed
	$(BIN)/python -m build --outdir dist

# constraints.txt holds the exact versions that were tested; without it pip may replace a CPU torch by the CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trigscale needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
