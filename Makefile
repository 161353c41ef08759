# The front desk. `make` lists the verbs.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Linux without a GPU: make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
# pip's constraints files; none: the newest versions that pyproject allows
CONSTRAINTS ?= constraints.txt
RECIPE ?= quickstart
SET ?=
RUN ?=
ON ?=
REPO ?=
YES ?=
WITH_BASE ?=
PUSH_FLAGS ?=
VENV := .venv
FT := $(VENV)/bin/ft
INPUTS := pyproject.toml $(CONSTRAINTS)
INSTALL = $(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(addprefix -c ,$(CONSTRAINTS))
.DELETE_ON_ERROR:

# Given values are text. Make does not expand them ($(value …)); the shell reads them from the environment, where
# nothing in them is a command. So spaces, quotes and $(…) reach ft as they are.
override RECIPE := $(value RECIPE)
override SET := $(value SET)
override RUN := $(value RUN)
override ON := $(value ON)
override REPO := $(value REPO)
override YES := $(value YES)
override WITH_BASE := $(value WITH_BASE)
export RECIPE SET RUN ON REPO YES WITH_BASE
# One KEY=VALUE a line: a pair begins at a space before KEY=, and all up to the next one is its value.
PAIRS := awk '{ gsub(/[ \t]+[a-z_]+(\.[a-z_]+)*=/, "\n&"); print }'

.PHONY: help setup finetune compare push runs recipes doctor test check coverage lowest oracles mutants readme \
  docs clean bench slow torture live

help:      ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip $(INPUTS)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.installed-oracles: $(VENV)/.installed-dev
	$(INSTALL) -e '.[dev,oracles]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	@touch $@

lowest.txt: pyproject.toml tests/lowest.py
	@$(PYTHON) tests/lowest.py > $@

setup: $(VENV)/.installed   ## create .venv and install (the other verbs do it when needed)

finetune: $(VENV)/.installed   ## train and judge: make finetune RECIPE=recipes/medical-bert.yaml SET="training.epochs=2"
	@printf '%s\n' "$$SET" | $(PAIRS) | { set -- "$$RECIPE"; \
	  while read -r pair; do test -z "$$pair" || set -- "$$@" --set "$$pair"; done; exec $(FT) finetune "$$@"; }

compare: $(VENV)/.installed   ## score a run again: make compare RUN=runs/quickstart ON=notes.txt
	@test -n "$$RUN" || { { echo "Which run? make compare RUN=one of:"; $(FT) runs; } >&2; exit 2; }
	@$(FT) compare "$$RUN" $${ON:+--on "$$ON"}

push: $(VENV)/.installed   ## show what would go to the Hub; YES=1 sends it: make push RUN=runs/x REPO=me/x-lora YES=1
	@test -n "$$RUN" || { { echo "Which run? make push RUN=one of:"; $(FT) runs; } >&2; exit 2; }
	@$(FT) push "$$RUN" $${REPO:+--to "$$REPO"} $${WITH_BASE:+--with-base} $${YES:+--yes} $(PUSH_FLAGS)

runs: $(VENV)/.installed   ## list the runs with their verdicts
	@$(FT) runs

recipes: $(VENV)/.installed   ## list the recipes that ship
	@$(FT) recipes

doctor: $(VENV)/.installed   ## what this machine offers, and what would stop a run
	@$(FT) doctor

test: $(VENV)/.installed-dev   ## the tests: offline, on the CPU
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.installed-dev   ## format, lint and types; changes nothing
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

coverage: $(VENV)/.installed-dev   ## the tests again, counting the lines and branches that they reach
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered

lowest: lowest.txt   ## the tests with the lowest versions that pyproject allows, in .venv-lowest
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=lowest.txt

oracles: $(VENV)/.installed-oracles   ## our scores against lm-evaluation-harness
	@$(VENV)/bin/python -m pytest -q -m oracle

bench: $(VENV)/.installed-oracles   ## how fast documents are scored, beside the peers (half an hour, quiet machine)
	@$(VENV)/bin/python bench/scoring.py

slow: $(VENV)/.installed-dev   ## the tests that take too long for every day
	@$(VENV)/bin/python -m pytest -q -m slow

torture: $(VENV)/.installed-dev   ## kill runs at random moments, again and again (half an hour)
	@$(VENV)/bin/python -m pytest -q -m torture -s tests/torture

live: $(VENV)/.installed-dev   ## the tests that ask the real Hub
	@FT_LIVE=1 $(VENV)/bin/python -m pytest -q -m live

mutants: $(VENV)/.installed-dev   ## plant known bugs one at a time; each must break a test
	@$(VENV)/bin/python tests/mutants.py

readme: $(VENV)/.installed-dev   ## run the README's commands and compare its figures
	@$(VENV)/bin/python tests/readme.py

docs: $(VENV)/.installed-docs   ## the documentation as a website, in site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

clean:     ## remove .venv, what was built and caches; runs/ stays
	rm -rf $(VENV) .venv-lowest lowest.txt build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
