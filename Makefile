# `make` lists the targets. Everything runs in .venv, created from requirements.txt, which pins hashes.

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
	@echo "environment: .venv is up to date with requirements.txt"

.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("retrace needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv --clear .venv
	awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.txt
	@touch $@

# Editable and offline: hatchling is in requirements.txt, so nothing without a hash is downloaded.
.venv/.installed: .venv/.complete pyproject.toml
	$(BIN)/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
	@touch $@

# DVC unpickles the files of its site cache. By default, everybody can write to its folder.
SITE_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/retrace/dvc

.venv/.private: .venv/.complete
	@mkdir -p "$(SITE_CACHE)"
	@install -d -m 700 "$(SITE_CACHE)" "$(SITE_CACHE)/repo"
	@dvc config --local core.site_cache_dir "$(SITE_CACHE)"
	@touch $@

# No --quiet: with it, mkdocs counts no warnings and --strict has no effect.
MKDOCS := NO_MKDOCS_2_WARNING=1 mkdocs build --strict

.PHONY: check
check: env  ## format, lint, types, layers, graph and documentation against the code, the site
	ruff format --check .
	ruff check .
	pyright --warnings
	lint-imports --no-logo
	pytest tests/pipeline/test_imports.py tests/test_contract.py tests/system/test_docs.py
	$(MKDOCS)

.PHONY: docs
docs: env  ## the documentation as a site, in .retrace/site
	$(MKDOCS)

.PHONY: deps
deps: env  ## write the code deps of dvc.yaml, from the imports
	python -m retrace.pipeline.imports

.PHONY: test
test: env  ## every test but those of faults
	pytest -n 2 --dist loadgroup -m "not faults"

.PHONY: quick
quick: env  ## the tests that take seconds
	pytest -n 2 --dist loadgroup -m "not slow and not faults"

.PHONY: faults
faults: env  ## tests of faults: dead servers, killed processes, four workers, PostgreSQL; minutes
	pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/faults

.PHONY: costs
costs: env  ## what tracking and checkpoints cost, against their limits; minutes, on a quiet machine
	python benchmarks/tracking.py
	python benchmarks/checkpoints.py

.PHONY: gpu
gpu: env  ## what recipes take on a GPU, into docs/gpu.md; minutes, on a machine that has one
	python benchmarks/gpu.py --write

.PHONY: bench
bench: env  ## the tutorials' loops against ours, the pipeline's cost and scaling; hours, on a quiet machine
	python benchmarks/bench.py --write
	python benchmarks/overhead.py
	python benchmarks/scale.py

.PHONY: audit
audit: env  ## the pinned packages against PyPI's database of known vulnerabilities
	@report=$$(pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements.txt 2>&1); \
	case "$$?:$$report" in \
		0:*) echo "$$report" ;; \
		*" known vulnerabilit"*) echo "$$report"; exit 1 ;; \
		*) echo "$$report" | tail -n 1; \
			echo "audit: the database did not answer for every package; try again later"; exit 2 ;; \
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
