# Everything runs from .venv, which `setup` makes; `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test soak large golden bench figures lint type audit constraints wheelhouse

# Nothing is reported to anyone.
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

# The first supported interpreter that can make virtual environments; `make setup PYTHON=/path/to/python` overrides it.
usable = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '$(usable)' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
UNMARKED := not soak and not large and not gpu
READY := .venv/ready
AUDIT := .venv/audit

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(READY) ## make .venv with everything that the other targets need

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 with venv found; name one: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

# Compiled afterwards, by all cores: pip would take one of them for two minutes.
$(READY): pyproject.toml constraints.txt tests/nnunet.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[cluster,export,study,dev]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/nnunet -r tests/nnunet.txt
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' .venv/lib || true  # some packages hold templates that are no Python
	@touch $@

demo: setup ## the whole road on phantoms: ingest, train, generate, evaluate (about 10 minutes on 2 cores)
	$(BIN)/python jobs/experiment.py

test: setup ## the tests (docs/testing.md); ARGS='-k NAME' passes through to pytest
ifeq ($(ARGS),)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m '$(UNMARKED)'
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)
endif

soak: setup ## long fault tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(ARGS)

large: setup ## Stable Diffusion 1.5's true size on the CPU (20 GB of memory, 40 GB of disk, minutes)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m large -s $(ARGS)

golden: setup ## hold the model to the reference numbers in SIAMDIFF_GOLDEN (default ../shared/golden)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m golden $(ARGS)

bench: setup ## training step, sampling and data path against what one would run instead; ARGS='--json FILE' and others
	$(BIN)/python -m benchmarks.run $(ARGS)

# One after the other, each with as many threads as its own options say; a few minutes each on 2 cores.
BENCHMARKS := flops scaling ray_overhead data_wait checkpoint_step plan shards fleet

figures: setup ## what else is claimed about speed, with Ray and a store (docs/performance.md); 25 minutes on 2 cores
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

lint: setup ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint infra/image/Dockerfile
	$(BIN)/shellcheck infra/image/*.sh infra/slurm/*.sbatch

type: setup ## types
	$(BIN)/pyrefly check

audit: $(AUDIT)/ready ## known vulnerabilities of the dependencies, secrets in the files (docs/security.md)
	PYTHONPATH=$(AUDIT) $(BIN)/python .ci/audit.py

$(AUDIT)/ready: .ci/audit.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(AUDIT) -r .ci/audit.txt
	@touch $@

constraints: setup ## write constraints.txt from what .venv holds
	{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --all --exclude-editable | grep -vE '^(#|pip==|nvidia-|triton==)' | sed 's/+cpu//'; } >.constraints
	mv .constraints constraints.txt

WHEELHOUSE ?= wheelhouse

wheelhouse: ## all wheels for a site without a network, with their hashes, in WHEELHOUSE (docs/image.md)
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 with venv found; name one: make wheelhouse PYTHON=/path/to/python3.11" >&2; exit 2; }
	PYTHON=$(PYTHON) infra/image/wheelhouse.sh $(WHEELHOUSE)
