# `make` lists the targets. Everything runs in .venv, created from requirements.txt, which has hashes.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := src
# The make of macOS (3.81) looks up a command without a shell in its own PATH, not in this one.
ifeq ($(shell uname), Darwin)
SHELL := /bin/bash
endif

# The distribution `retrace`, and the lab's.
PROJECTS := pyproject.toml src/lab/pyproject.toml

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/'

.PHONY: repro
repro: env  ## run the five stages, on MNIST unless params.yaml says otherwise
	dvc repro

.PHONY: ui
ui: env  ## serve the MLflow UI, to this machine only
	retrace ui

.PHONY: env
env: .venv/.installed .venv/.private  ## create or update .venv from requirements.txt, with the `retrace` command
	@echo "environment: .venv is up to date with requirements.txt"

.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("retrace needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv --clear .venv
	awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.txt
	@touch $@

# Editable and offline: hatchling is in requirements.txt, so nothing without a hash is downloaded.
.venv/.installed: .venv/.complete $(PROJECTS)
	$(BIN)/uv pip install --quiet --offline --no-deps --no-build-isolation --editable . --editable src/lab
	@touch $@

# DVC unpickles the files of its site cache, and by default every user can write to that folder.
SITE_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/retrace/dvc

.venv/.private: .venv/.complete
	@mkdir -p "$(SITE_CACHE)"
	@install -d -m 700 "$(SITE_CACHE)" "$(SITE_CACHE)/repo"
	@dvc config --local core.site_cache_dir "$(SITE_CACHE)"
	@touch $@

# No --quiet: with it, mkdocs counts no warnings and --strict has no effect.
MKDOCS := NO_MKDOCS_2_WARNING=1 mkdocs build --strict

.PHONY: check
check: env  ## check format, lint, types, layers, whether graph and documentation match the code, the site
	ruff format --check .
	ruff check .
	pyright --warnings
	lint-imports --no-logo
	pytest tests/test_code_deps.py tests/test_contract.py tests/system/test_docs.py
	$(MKDOCS)

.PHONY: docs
docs: env  ## build the documentation site in .retrace/site
	$(MKDOCS)

.PHONY: deps
deps: env  ## write the code files in the deps of dvc.yaml, from the imports
	python -m lab.doctor.code_deps

.PHONY: test
test: env  ## run the tests but those of `make long` and `make faults`
	pytest -n 2 --dist loadgroup -m "not faults and not long"

.PHONY: quick
quick: env  ## run the tests that take seconds
	pytest -n 2 --dist loadgroup -m "not slow and not faults and not long"

.PHONY: long
long: env  ## run the tests of whole pipelines, recipes, sweeps, installations; half an hour
	pytest -n 2 --dist loadgroup -m long

.PHONY: faults
faults: env  ## run the tests of failures: dead servers, killed processes, four workers, PostgreSQL; minutes
	pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/faults \
		tests/doctor/test_doctor.py::test_environment_is_rebuilt

.PHONY: costs
costs: env  ## measure tracking, checkpoints, a cluster and augmentations; minutes, on a quiet machine
	python benchmarks/tracking.py
	python benchmarks/checkpoints.py
	python benchmarks/machines.py
	python benchmarks/augmentations.py

.PHONY: gpu
gpu: env  ## measure trainings on a GPU and write docs/gpu.md; minutes, on a machine with a GPU
	python benchmarks/gpu.py --write

.PHONY: rivals
rivals: .retrace/rivals/.complete  ## create the environment of those with which `make bench` compares

.retrace/rivals/.complete: benchmarks/requirements.txt | .venv/.complete
	@mkdir -p .retrace
	uv venv --quiet --clear --python $(BIN)/python .retrace/rivals
	uv pip sync --quiet --require-hashes --python .retrace/rivals benchmarks/requirements.txt
	@touch $@

.PHONY: bench
bench: env rivals  ## compare the speed with the tutorials, measure overhead and scaling; hours, on a quiet machine
	python benchmarks/bench.py --write
	python benchmarks/rivals.py --write
	python benchmarks/overhead.py
	python benchmarks/scale.py

.PHONY: audit
audit: env  ## check the pinned packages for known vulnerabilities, in PyPI's database
	@report=$$(pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements.txt 2>&1); \
	case "$$?:$$report" in \
		0:*) echo "$$report" ;; \
		*" known vulnerabilit"*) echo "$$report"; exit 1 ;; \
		*) echo "$$report" | tail -n 1; \
			echo "audit: the database did not answer for every package; try again later"; exit 2 ;; \
	esac

# Without the tests in which doctor compares the packages with requirements.txt.
.PHONY: floors
floors: env  ## run the quick tests with the oldest packages that both pyproject.toml allow
	uv pip compile --quiet --resolution lowest-direct --all-extras --no-header $(PROJECTS) --output-file .retrace/floors.txt
	uv venv --quiet --clear --python $(BIN)/python .retrace/floors
	uv pip install --quiet --python .retrace/floors --constraint .retrace/floors.txt --group dev \
		--editable '.[compare,sweep,ui,cluster,s3,ssh]' --editable src/lab
	PATH=$(CURDIR)/.retrace/floors/bin:$(PATH) pytest -n 2 --dist loadgroup \
		-m "not slow and not faults and not long" --ignore=tests/doctor/test_doctor.py

.PHONY: lock
lock: .venv/.complete  ## update requirements.txt from both pyproject.toml
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--group dev --all-extras $(PROJECTS) --output-file requirements.txt
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--group rivals --constraint requirements.txt --output-file benchmarks/requirements.txt

.PHONY: results
results: env  ## measure test accuracy and training time of every recipe; hours, but continues if stopped
	python benchmarks/results.py
