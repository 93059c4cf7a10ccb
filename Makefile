# make .venv | train | test | lint | bench
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help .venv train test lint bench

help:
	@echo "make .venv   set up .venv with the tested versions (constraints.txt); done once"
	@echo "make train   train lstm_variant on the generated corpus synth_speech (minutes on a CPU, no network)"
	@echo "make test    lint, then all tests that need no GPU and no patience"
	@echo "make lint    ruff and pyright"
	@echo "make bench   time the runners against torch.nn and an eager loop"
	@echo "PYTHON=python3.12 make .venv   takes another Python (3.11 or newer)"

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
	$(BIN)/python -m pytest

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv
	$(BIN)/python -m scripts.bench.cpu
