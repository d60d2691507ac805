# Each target sets up what it needs, in $(VENV): it takes Python 3.11 or newer, a C++ compiler and
# make. Stamp files in $(VENV)/stamps say what is done already; an edited kernel or build file is
# newer than its stamp, so the extension modules are built again, all of them, from nothing.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
KERNELS := $(wildcard $(addprefix fastce/*.,hpp pxd pxi pyx))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
# Stamps of dependency groups are made by a pattern rule; make must not take them for temporary.
.SECONDARY:

.PHONY: help demo test test-peers bench lint dist clean

help:
	@echo 'make demo        train a digit classifier with fastce as its loss, and draw the run'
	@echo 'make test        build the package and run the test suite'
	@echo 'make test-peers  the tests against torch and JAX, which are installed for it'
	@echo 'make bench       time and error of each loss beside its peers and a copy of the array'
	@echo 'make lint        ruff, mypy --strict, cython-lint'
	@echo 'make dist        an sdist, and a wheel built from it'
	@echo 'make clean       remove all that was built, and the environment'
	@echo 'Choose the interpreter with PYTHON=, the environment with VENV=;'
	@echo 'ARGS= is handed on: make test ARGS="-k focal", make bench ARGS=--quick'

demo: $(STAMPS)/package $(STAMPS)/group-demo
	$(BIN)/python examples/train_digits.py

test: $(STAMPS)/package $(STAMPS)/group-test
	$(BIN)/python -m pytest $(ARGS)

# The import comes first so that a peer that is missing or broken is an error, not a skipped test.
test-peers: $(STAMPS)/package $(STAMPS)/group-test $(STAMPS)/group-peers
	$(BIN)/python -c 'import jax, torch; print("torch", torch.__version__, "jax", jax.__version__)'
	$(BIN)/python -m pytest -k 'torch or jax or peer' $(ARGS)

bench: $(STAMPS)/package $(STAMPS)/group-bench
	$(BIN)/python -m bench $(ARGS)

lint: $(STAMPS)/group-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint fastce  # it calls pycodestyle

dist: $(STAMPS)/group-dist
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist *.egg-info fastce/*.so .mypy_cache .pytest_cache .ruff_cache

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit("fastce needs Python 3.11 or newer: make PYTHON=python3.x" \
		if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/group-%: pyproject.toml $(STAMPS)/venv
	$(PIP) install --group $*
	@touch $@

# Editable, so that Python files are used where they stand. Old modules go first: whatever is
# imported afterwards has been built from the sources of now.
$(STAMPS)/package: setup.py $(KERNELS) $(STAMPS)/group-build
	rm -rf build fastce/*.so
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
