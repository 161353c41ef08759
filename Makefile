# `make` lists the commands.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Linux without a GPU: make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
# pip's constraints files; empty: the newest versions that pyproject.toml allows
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

# User values are plain text. Make does not expand them ($(value …)). The shell reads them from the environment, where
# they are never run as commands. So spaces, quotes and $(…) reach ft unchanged.
override RECIPE := $(value RECIPE)
override SET := $(value SET)
override RUN := $(value RUN)
override ON := $(value ON)
override REPO := $(value REPO)
override YES := $(value YES)
override WITH_BASE := $(value WITH_BASE)
export RECIPE SET RUN ON REPO YES WITH_BASE
# Splits SET into one KEY=VALUE per line: a pair begins at a space before KEY=, and ends where the next one begins.
PAIRS := awk '{ gsub(/[ \t]+[a-z_]+(\.[a-z_]+)*=/, "\n&"); print }'

.PHONY: help setup finetune compare push runs recipes doctor test check coverage lowest oracles browser mutants readme \
  docs clean bench slow torture live

help:      ## list the commands
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

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(INSTALL) -e '.[dev,browser]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	@touch $@

lowest.txt: pyproject.toml tests/lowest.py
	@$(PYTHON) tests/lowest.py > $@

setup: $(VENV)/.installed   ## create .venv and install (the other commands do this when needed)

finetune: $(VENV)/.installed   ## train an adapter and print the verdict: make finetune RECIPE=recipes/medical-bert.yaml SET="training.epochs=2"
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

recipes: $(VENV)/.installed   ## list the recipes that ship with the toolkit
	@$(FT) recipes

doctor: $(VENV)/.installed   ## show what this machine offers, and what would stop a run
	@$(FT) doctor

test: $(VENV)/.installed-dev   ## run the tests: offline, on the CPU
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.installed-dev   ## check format, lint and types; changes nothing
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

coverage: $(VENV)/.installed-dev   ## run the tests and measure line and branch coverage
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered

lowest: lowest.txt   ## run the tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=lowest.txt

oracles: $(VENV)/.installed-oracles   ## compare our scores with lm-evaluation-harness
	@$(VENV)/bin/python -m pytest -q -m oracle

browser: $(VENV)/.installed-browser   ## open the report and ft try's page in the system's Chromium
	@$(VENV)/bin/python -m pytest -q tests/reporting/test_report_in_a_browser.py tests/test_tryout_page.py

bench: $(VENV)/.installed-oracles   ## measure scoring and training, also of other tools (an hour, quiet machine)
	@$(VENV)/bin/python bench/scoring.py && $(VENV)/bin/python bench/training.py

slow: $(VENV)/.installed-dev   ## run the tests that take too long for every day
	@$(VENV)/bin/python -m pytest -q -m slow

torture: $(VENV)/.installed-dev   ## kill runs at random moments, many times (half an hour)
	@$(VENV)/bin/python -m pytest -q -m torture -s tests/torture

live: $(VENV)/.installed-dev   ## run the tests that use the real Hub
	@FT_LIVE=1 $(VENV)/bin/python -m pytest -q -m live

mutants: $(VENV)/.installed-dev   ## insert known bugs one at a time; each must break a test
	@$(VENV)/bin/python tests/mutants.py

readme: $(VENV)/.installed-dev   ## run the commands of README and docs, and compare their figures
	@$(VENV)/bin/python tests/readme.py

docs: $(VENV)/.installed-docs   ## build the documentation as a website, in site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

clean:     ## remove .venv, build output and caches; runs/ stays
	rm -rf $(VENV) .venv-lowest lowest.txt build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
