# `make` lists what can be made. Everything runs in .venv, made from requirements.txt, whose every file has a hash.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := src

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

.PHONY: repro
repro: env  ## the five stages, on real MNIST unless params.yaml says otherwise
	dvc repro

.PHONY: ui
ui: env  ## MLflow's pages, for this machine only
	retrace ui

.PHONY: env
env: .venv/.installed .venv/.private  ## the environment, from requirements.txt, with the `retrace` command
	@echo "environment: .venv is as requirements.txt says"

.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("retrace needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv --clear .venv
	awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.txt
	@touch $@

# Editable, and from what is there: hatchling comes with requirements.txt, so nothing without a hash is downloaded.
.venv/.installed: .venv/.complete pyproject.toml
	$(BIN)/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
	@touch $@

# DVC unpickles what is in its site cache, which it would put into a folder that everybody can write to.
SITE_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/retrace/dvc

.venv/.private: .venv/.complete
	@mkdir -p "$(SITE_CACHE)"
	@install -d -m 700 "$(SITE_CACHE)" "$(SITE_CACHE)/repo"
	@dvc config --local core.site_cache_dir "$(SITE_CACHE)"
	@touch $@

# Without --quiet, with which no warning is counted and --strict is without effect.
MKDOCS := NO_MKDOCS_2_WARNING=1 mkdocs build --strict

.PHONY: check
check: env  ## format, lint, types, layers, the graph against the code, the documentation
	ruff format --check .
	ruff check .
	pyright --warnings
	lint-imports --no-logo
	pytest tests/pipeline/test_imports.py
	$(MKDOCS)

.PHONY: docs
docs: env  ## the documentation as a site, in .retrace/site
	$(MKDOCS)

.PHONY: deps
deps: env  ## the code among dvc.yaml's deps, from the imports
	python -m retrace.pipeline.imports

.PHONY: test
test: env  ## every test, of the faults five
	pytest -n 2 --dist loadgroup -m "not faults"

.PHONY: quick
quick: env  ## the tests that take no minutes
	pytest -n 2 --dist loadgroup -m "not slow and not faults"

.PHONY: faults
faults: env  ## all that can fail around a run: dead servers, killed processes, four workers, PostgreSQL; minutes
	pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/faults

.PHONY: costs
costs: env  ## what tracking and checkpoints cost, against their limits; minutes, on a quiet machine
	python benchmarks/tracking.py
	python benchmarks/checkpoints.py

.PHONY: gpu
gpu: env  ## what recipes take on a GPU, into docs/gpu.md; minutes, on a machine that has one
	python benchmarks/gpu.py --write

.PHONY: bench
bench: env  ## the tutorials' own loops against ours, what the pipeline costs, and how it scales; hours, on a quiet machine
	python benchmarks/bench.py --write
	python benchmarks/overhead.py
	python benchmarks/scale.py

.PHONY: audit
audit: env  ## the pinned packages against PyPI's database of known vulnerabilities
	@said=$$(pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements.txt 2>&1); \
	case "$$?:$$said" in \
		0:*) echo "$$said" ;; \
		*" known vulnerabilit"*) echo "$$said"; exit 1 ;; \
		*) echo "$$said" | tail -n 1; \
			echo "audit: the database did not tell of every package, so nothing is known; try again where it does"; exit 2 ;; \
	esac

.PHONY: floors
floors: env  ## the quick tests with the oldest packages that pyproject.toml allows
	uv pip compile --quiet --resolution lowest-direct --all-extras --no-header pyproject.toml --output-file .retrace/floors.txt
	uv venv --quiet --clear --python $(BIN)/python .retrace/floors
	uv pip install --quiet --python .retrace/floors --constraint .retrace/floors.txt --group dev --editable '.[s3,ssh]'
	PATH=$(CURDIR)/.retrace/floors/bin:$(PATH) pytest -n 2 --dist loadgroup -m "not slow and not faults"

.PHONY: lock
lock: .venv/.complete  ## requirements.txt anew from pyproject.toml
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--group dev --all-extras pyproject.toml --output-file requirements.txt

.PHONY: results
results: env  ## test accuracy and training time of every recipe; hours, but none of them twice
	python benchmarks/results.py
