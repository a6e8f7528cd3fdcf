# fadepth in one command each. `make` alone lists them; everything lives in .venv.

PYTHON ?= python3
CORES ?= 8
# One more than cores: some tests wait for queues and servers.
TEST_WORKERS ?= 3
RUFF_PATHS := fadepth tests profiles docs/*.py

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

STAMP := .venv/.stamp

# The rules call `python` and `fadepth`: the venv's, whatever else is installed. Only the set-up
# looks past it, also where the venv is activated: a Python cannot replace the venv it runs from.
OUTER_PATH := $(subst $(CURDIR)/.venv/bin:,,$(PATH))
export PATH := $(CURDIR)/.venv/bin:$(OUTER_PATH)
unexport PYTHONHOME
unexport PYTHONPATH
# Without byte code each of a hundred processes would compile torch and pandas anew: 4 s more each.
unexport PYTHONDONTWRITEBYTECODE
# Without these two, MLflow calls home and its UI starts eight idle job runners (2 GB).
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
# ONNX Runtime calls home unless told not to (fadepth.export silences OpenVINO).
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help ablation report pdf bench docs pictures screenshots latex services test lint format ui lock clean distclean FORCE

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

ablation: $(STAMP) ## run the ablation study; its table is reports/table_ablation.csv
	snakemake --cores $(CORES) reports/table_ablation.csv
	@echo
	@echo "Table:     reports/table_ablation.csv"
	@echo "Trainings: runs/ (one folder each)"
	@echo "Compare them in the browser: make ui"
	@echo "Depth of a photo, by the best of them: .venv/bin/fadepth predict PHOTO"

report: $(STAMP) ## all tables, figures and the report page: reports/index.html
	snakemake --cores $(CORES) reports/all
	@echo
	@echo "Report: reports/index.html (a page of its own, open it in a browser)"

pdf: $(STAMP) ## set the tables that are in reports/ as one PDF: reports/tables.pdf
	@ls reports/table_*.tex >/dev/null 2>&1 || { \
	  echo "reports/ holds no table yet: make ablation, or make report."; exit 1; }
	fadepth pdf reports/table_*.tex --output reports/tables.pdf

# Ratios of one run each; nothing else should run meanwhile. docs/performance.md tells how to read it.
BENCH := reports/bench
# HQDecv2 takes forty times as long, so it is left to those who ask for it.
BENCH_MODELS := smalldepth,smalldepth-folded,smalldepth-folded:dense,monodepth2
bench: $(STAMP) ## speeds of networks, trainings, evaluation, start-up: twelve minutes
	mkdir -p $(BENCH)
	fadepth bench latency --json $(BENCH)/latency.json --plot $(BENCH)/latency.png \
	  --models $(BENCH_MODELS) --precisions fp32,int8
	fadepth bench latency --threads 2 --json $(BENCH)/latency_threads.json --models $(BENCH_MODELS)
	fadepth bench limits --json $(BENCH)/limits.json
	fadepth bench training --json $(BENCH)/training.json
	fadepth bench evaluation --json $(BENCH)/evaluation.json
	fadepth bench loader --json $(BENCH)/loader.json
	fadepth bench start-up --json $(BENCH)/start_up.json
	fadepth bench summary $(BENCH) --markdown $(BENCH)/summary.md

docs: $(STAMP) ## build docs/ as a site, links checked: site/index.html
	python docs/generate.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo
	@echo "Site: site/index.html (open it in a browser; with the search box: mkdocs serve)"

# Both of the runs that `make ablation` has left; for three seeds OVERRIDE='{"seeds": [1, 2, 3]}'.
OVERRIDE ?= {}
pictures: $(STAMP) ## draw the README's two pictures anew, from runs/
	python docs/pictures.py --override '$(OVERRIDE)'

screenshots: $(STAMP) ## take docs/mlflow.md's pictures anew, from runs/, in headless Chromium
	python docs/screenshots.py --override '$(OVERRIDE)'

# Tables are read back from a PDF in the tests. Only root on Debian gets LaTeX from here; elsewhere
# those tests are skipped, and say so.
latex: ## install what tables.pdf and its tests need (Debian, as root); APT=no leaves it
	@if command -v pdflatex >/dev/null && command -v pdftotext >/dev/null; then :; \
	elif [ "$(APT)" != no ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing LaTeX and poppler-utils from Debian: about a minute, 200 MB."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends texlive-latex-base texlive-latex-recommended lmodern \
	    poppler-utils; } >/dev/null || echo "LaTeX could not be installed: its tests are skipped."; \
	else \
	  echo "No LaTeX here: tests of tables.pdf are skipped (Debian: sudo make latex)."; \
	fi

# Tests send a study through a real Slurm and MLflow to a real PostgreSQL, which they start and stop
# themselves. Not where systemd runs: there Debian would start both for good, on someone's computer.
services: ## install Slurm and PostgreSQL for tests (Debian container, as root); APT=no leaves it
	@missing=; \
	command -v slurmctld >/dev/null && command -v munged >/dev/null || missing="slurm-wlm munge procps"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$(APT)" != no ] && [ "$$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] \
	  && command -v apt-get >/dev/null; then \
	  echo "Installing from Debian, for tests: $$missing."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    --no-install-recommends $$missing; } >/dev/null \
	    || echo "They could not be installed: tests that need them are skipped."; \
	else \
	  echo "Not here: $$missing. Tests that need them are skipped (Debian: apt install)."; \
	fi

LINT = ruff check $(RUFF_PATHS) && ruff format --check $(RUFF_PATHS) \
  && snakefmt --check Snakefile workflow && snakemake --lint && mypy

# Lint runs beside the tests: types take a minute of one core.
test: $(STAMP) latex services ## lint, types and all tests
	@{ $(LINT); } & lint=$$!; result=0; \
	OMP_NUM_THREADS=1 pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder \
	  --durations=20 || result=$$?; \
	wait $$lint || { result=$$?; echo "Lint failed: make lint says it again." >&2; }; \
	exit $$result

lint: $(STAMP) ## ruff, snakefmt, snakemake --lint and mypy; changes nothing
	$(LINT)

format: $(STAMP) ## rewrite the sources in the one format
	ruff check --fix $(RUFF_PATHS)
	ruff format $(RUFF_PATHS)
	snakefmt Snakefile workflow

ui: $(STAMP) ## compare runs in the browser (MLflow); Ctrl-C ends it
	fadepth ui

lock: export PATH := $(OUTER_PATH)
lock: ## write requirements.lock anew from pyproject.toml (a few minutes)
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --no-compile -e '.[dev]'
	@# Local labels (+cpu) and CUDA libraries are this machine's: see the head of the lock.
	{ grep '^#' requirements.lock; \
	  .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude fadepth \
	  | tr 'A-Z_' 'a-z-' | sed 's/+[a-z0-9.]*$$//' \
	  | { grep -v -E '^(nvidia-|cuda-|triton==)' || true; } | LC_ALL=C sort; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .venv-lock
	@echo "Now set the same versions in environment.yml; tests/test_environment.py names the lines."

clean: ## remove caches and reports/; finished trainings stay
	find reports -mindepth 1 ! -name README.md -delete 2>/dev/null || true
	rm -rf .pytest_cache .ruff_cache .mypy_cache build site fadepth.egg-info
	find fadepth tests workflow -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# .snakemake goes with the runs: without its records Snakemake would repeat finished trainings.
distclean: ## remove everything generated: also runs/, data/, MLflow and .venv (CONFIRM=yes)
	@if [ "$(CONFIRM)" != yes ] && [ -e runs -o -e data -o -e mlflow.db ]; then \
	  echo "distclean would delete your trainings and data:"; \
	  du -shc runs data mlflow.db mlruns 2>/dev/null || true; \
	  echo "If that is meant: make distclean CONFIRM=yes"; \
	  exit 1; \
	fi
	$(MAKE) clean
	rm -rf runs data logs benchmarks predictions mlflow.db mlflow.db.lock mlruns mlartifacts .snakemake .venv .venv-lock

# Written last, so that an interrupted set-up is done again. It holds the folder's name, since a
# venv does not survive being moved: in a moved or copied checkout it is made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(shell pwd -P))
$(STAMP): FORCE
endif
$(STAMP): export PATH := $(OUTER_PATH)
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "fadepth needs Python 3.11 or newer, and '$(PYTHON)' is none ($$($(PYTHON) --version 2>&1 | head -1 || true))."; \
	  echo "Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; \
	  exit 1; \
	} >&2
	@echo "Setting up .venv from requirements.lock: about a minute, 2 GB (more with CUDA)."
	@[ "$$(cat $(STAMP) 2>/dev/null)" = "$$(pwd -P)" ] || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --no-compile -r requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@pwd -P > $@
FORCE:
