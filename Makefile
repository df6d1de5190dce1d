# One virtual environment in .venv, built from setup.cfg and constraints.txt. No step asks for root.
#   make install PYTHON=/path/to/python3.12    another interpreter
#   make install TORCH_INDEX=https://...       an index with CPU-only wheels of torch (Linux wheels on the default
#                                              index bring gigabytes of GPU libraries)

SHELL := bash
# Where the environment says to keep no compiled modules, as in many containers, each of a test run's hundreds of
# processes would compile ours anew, and each worker rewrite every test's assertions.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH_INDEX ?=
PYTEST_WORKERS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
PIP := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 $(BIN)/python -m pip
PYTEST = $(BIN)/python -m pytest -q -n $(1) --dist loadfile --no-loadscope-reorder
FAST_TESTS = $(wildcard tests/unit tests/property tests/contract)

.DEFAULT_GOAL := help
.PHONY: help install requirements demo test test-matrix test-gpu golden check format docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## build .venv; does nothing when setup.cfg and constraints.txt have not changed

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory requirements
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv && "$(PYTHON)" -m venv .venv; }
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) install -q -c constraints.txt -e '.[train,data,groups,dev]'
	@touch $@

# What no Python package can bring; each check names the Debian package that mends it.
requirements:
	@fail() { echo "proofswarm: $$1. On Debian or Ubuntu: apt-get install $$2" >&2; exit 1; }; \
	test -n "$(PYTHON)" || fail "Python 3.11 or newer is missing" "python3 python3-venv"; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| fail "$(PYTHON) is not Python 3.11 or newer" "python3 python3-venv"; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| fail "$(PYTHON) cannot make virtual environments" "python3-venv"; \
	command -v "$${CC:-cc}" >/dev/null || command -v gcc >/dev/null || fail "a C compiler is missing" "gcc"; \
	"$(PYTHON)" -c 'import os, sys, sysconfig; \
		sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
		|| fail "the C headers of $(PYTHON) are missing" "python3-dev"; \
	echo '#include <gmp.h>' | { "$$(command -v "$${CC:-cc}" || echo gcc)" -E - >/dev/null 2>&1; } \
		|| fail "gmp.h is missing (fastecdsa, which libp2p needs, builds against it)" "libgmp-dev"

demo: install  ## a whole swarm on this machine: trains, catches a cheat, writes a report
	$(BIN)/proofswarm demo

# With a worker more: swarms of real processes wait for each other a good part of their time.
test: install  ## every test
	$(call PYTEST,$$(($(PYTEST_WORKERS) + 1)))

test-matrix: install  ## every setting of the digest matrix: threads, vector widths, library modes, emulated ARM; about half an hour
	$(call PYTEST,$(PYTEST_WORKERS)) -v --dist load -m matrix tests/matrix

test-gpu: install  ## on a machine with an NVIDIA GPU: golden digests, then step times into runs/gpu.json
	$(BIN)/python -m pytest -v -s -m gpu tests/gpu
	$(BIN)/proofswarm bench gpu --json runs/gpu.json

golden: install  ## trace the golden runs again and write their digests; needed when an operator or model changes
	$(BIN)/python -m tests.make_golden

check: install  ## format, lint, types, imports and the fast tests; under a minute
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(call PYTEST,$(PYTEST_WORKERS)) -m 'not slow' $(FAST_TESTS)

format: install  ## rewrite the sources in the project's format
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

docs: install  ## write the pages that are made from the sources
	$(BIN)/python -c 'from verification.report.reference import page; print(page(), end="")' > docs/report-schema.md
	$(BIN)/python -c 'from pathlib import Path; from verification.spec import PAGES, renewed; \
		[p.write_text(renewed(p.read_text())) for p in map(Path("verification").joinpath, PAGES)]'

clean:  ## remove .venv and every cache
	rm -rf .venv build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
