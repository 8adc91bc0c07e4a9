# `make demo` and `make test` need Python 3.11 to 3.13, make and git; they do the rest in .venv.
#
#   PYTHON=…           another Python to make .venv with
#   TORCH=2.11.0       another pair of dat_rec/versions.py
#   TORCH_WHEELS=URL   an index of CPU builds of torch, for Linux without a GPU

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(FITS)' 2>/dev/null && command -v $$python && break; done)
TORCH ?=
export TORCH_WHEELS
# Where it is set, Python compiles TorchRec anew at every start: ten seconds instead of four.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
CODE := $(wildcard dat_rec launch benchmarks tests)
TYPED := $(wildcard dat_rec launch benchmarks)
PYTEST_FLAGS ?=
GPU_FLAGS ?= --device cuda
CHAOS_FLAGS ?= --kills 20
FUZZ_FLAGS ?= --cases 100
PAIRS_FLAGS ?=
INSTALL_CHECK_FLAGS ?=

DEMO := demo
DEMO_PREPARE_FLAGS ?=
DEMO_TRAIN_FLAGS ?= --preset modern --seed 0 --epochs 1 --examples.skip-repeats --model.hidden 128

# The same, but that --preset is the component's.
SLURM_TRAIN_FLAGS ?= --seed 0 --epochs 1 --batch-size 1024 --examples.skip-repeats --model.hidden 128

.DEFAULT_GOAL := help
.PHONY: help demo slurm slurm-packages test pytest gpu chaos fuzz pairs install-check lint format types imports doctor venv lock clean

help:  ## print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv  ## Complete Journey from its package to recommendations, in demo/
	$(BIN)/dat-rec prepare complete-journey --out $(DEMO)/data --overwrite $(DEMO_PREPARE_FLAGS)
	$(BIN)/dat-rec train --data $(DEMO)/data --out $(DEMO)/run --overwrite $(DEMO_TRAIN_FLAGS)
	$(BIN)/dat-rec export --run $(DEMO)/run --out $(DEMO)/export --overwrite
	$(BIN)/dat-rec evaluate --run $(DEMO)/run --blend-history
	$(BIN)/dat-rec recommend --export $(DEMO)/export --k 100 --out $(DEMO)/recs.parquet \
		--overwrite --show 2
	$(BIN)/dat-rec report $(DEMO)/run --export $(DEMO)/export --out $(DEMO)/report.html --overwrite

slurm: venv slurm-packages  ## the demo's data on two Slurm nodes on this machine (needs root)
	test -d $(DEMO)/data || \
		$(BIN)/dat-rec prepare complete-journey --out $(DEMO)/data $(DEMO_PREPARE_FLAGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.launch.slurm_demo \
		--data $(DEMO)/data --out $(DEMO)/slurm -- --overwrite $(SLURM_TRAIN_FLAGS)

slurm-packages: venv  ## Debian's packages of Slurm, where they are missing (needs root)
	@$(BIN)/python -m tests.launch.slurm_cluster packages

test: lint types imports pytest  ## every check: lint, format, types, import direction, tests

# One thread for each process: several run at once, and OpenMP's threads would wait spinning.
# Three files at a time on two cores, for many tests wait: for a Slurm, a timeout, a lost rank; in order,
# the longest first (tests/conftest.py). Without CI, pytest does not spend an hour on the difference
# of two files of bits.
pytest: venv  ## the tests alone; PYTEST_FLAGS="-k losses -x" goes to pytest
	CI= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

# GPU_PYTHON=python3 runs it where nothing can be installed, with what that Python has.
gpu: $(if $(GPU_PYTHON),,venv)  ## all that needs an NVIDIA GPU, in ten minutes: tests, steps, the paper's size
	$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu $(GPU_FLAGS)

chaos: venv  ## kill trainings at random moments; each must end with an undisturbed run's bits
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(CHAOS_FLAGS)

fuzz: venv  ## random datasets, options and ranks, judged by brute force
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_FLAGS)

pairs:  ## every set of dat_rec/versions.py, and the least releases: installed, core tests run (an hour, 6 GB)
	$(PYTHON) -m tests.pairs $(PAIRS_FLAGS)

install-check:  ## a wheel in a fresh environment: from prepare to recommend, outside the checkout
	$(PYTHON) -m tests.install_check $(INSTALL_CHECK_FLAGS)

lint: venv  ## ruff: lint, and whether the format is right; hadolint: the Dockerfile
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/hadolint launch/Dockerfile

format: venv  ## ruff: put format and simple lint right
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

types: venv  ## mypy --strict
	$(BIN)/mypy $(TYPED)

imports: venv  ## whether imports go one way (setup.cfg, importlinter)
	$(BIN)/lint-imports --config setup.cfg

doctor: venv  ## what works on this machine, and cures
	$(BIN)/python -m dat_rec doctor

venv:  ## make, update or repair .venv
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' || \
		{ echo 'Python 3.11, 3.12 or 3.13 is needed: install it, or pass PYTHON=/path/to/python3.11' >&2; exit 2; }
	@$(PYTHON) -m dat_rec.install --venv $(VENV) $(if $(TORCH),--torch $(TORCH))

lock: venv  ## write dat_rec/constraints.txt from what .venv holds
	$(BIN)/python -m pip freeze --exclude-editable | \
		grep -viE '^(torch|torchrec|fbgemm[-_]gpu(-cpu)?|setuptools)==' > dat_rec/constraints.txt

clean:  ## remove .venv, demo/ and caches
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
