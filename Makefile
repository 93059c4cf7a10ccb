# make .venv | train | test | lint | bench
PYTHON ?= python3
BIN := .venv/bin
# Processes of `make test`: most of a test is one thread of Python. Torch has one thread in each, too.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help .venv train test lint bench

help:
	@echo "make .venv   set up .venv with the tested versions (constraints.txt); done once"
	@echo "make train   train lstm_variant on the generated corpus synth_speech (minutes on a CPU, no network)"
	@echo "make test    lint, then all tests that need no GPU and no patience"
	@echo "make lint    ruff and pyright"
	@echo "make bench   measure for 20 minutes what docs/performance.md lacks, and write it again"
	@echo "PYTHON=python3.12 make .venv   takes another Python (3.11 or newer)"
	@echo "make test JOBS=8               runs the tests in eight processes instead of two"

.venv: .venv/.installed

# The stamp is newer than what it depends on: nothing is installed twice.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.12 make .venv")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

train: .venv
	$(BIN)/python train.py experiment=quickstart

test: .venv
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv
	$(BIN)/python -m scripts.bench.run --minutes 20 || [ $$? -eq 75 ]      # 75: there is more to measure
	$(BIN)/python -m scripts.bench.page
