# Each target sets up what it needs, in $(VENV): it takes Python 3.11 or newer, a C++ compiler and
# make. Stamp files in $(VENV)/stamps say what is done already; an edited kernel or build file is
# newer than its stamp, so the extension modules are built again, all of them, from nothing.
# The tests have two modules more, which run the logic of wide vectors and of none on any machine.

PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 30
CLANG ?= clang++
KIND ?= address thread integer memory
PARALLEL_TESTS := $(addprefix tests/call/test_,layouts.py weights.py outputs.py)
PARALLEL_TESTS += $(addprefix tests/kernels/test_,plans.py logit_scale.py sigmoid_losses.py)

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
KERNELS := $(wildcard fastce/_core.p* fastce/_kernels/*.pxi $(addprefix fastce/_simd/*.,hpp pxd))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
# Stamps of dependency groups are made by a pattern rule; make must not take them for temporary.
.SECONDARY:

.PHONY: help demo test test-all test-clang test-aarch64 test-free-threads golden cross sanitize fuzz
.PHONY: mutate exhaustive bench cliffs docs lint dist clean
.NOTPARALLEL:

help:
	@echo 'make demo        train a digit classifier with fastce as its loss, and draw the run'
	@echo 'make test        build the package and run the test suite'
	@echo 'make test-all    the same with torch, JAX and all other optional packages installed'
	@echo 'make test-clang  a copy built with CLANG=clang++: the bits are those of GCC'
	@echo 'make test-aarch64  tests of the kernels for Arm, emulated; as root, on Debian'
	@echo 'make golden      record the bits of all results again, after a change that is meant to change them'
	@echo 'make cross       compile the kernels for macOS, Windows, musl and Arm; nothing is linked or run'
	@echo 'make test-free-threads  each test in four threads at once; PYTHON=python3.14t, VENV= of its own'
	@echo 'make sanitize    the tests under sanitizers and valgrind; KIND=address, thread, integer or memory'
	@echo 'make fuzz        random calls against the reference, for MINUTES=30'
	@echo 'make mutate      break the package on purpose, and check that the tests notice'
	@echo 'make exhaustive  the error of exp, log1p, log and tanh on every float32'
	@echo 'make bench       time and error of each loss, compared with peers and a copy of the array'
	@echo 'make cliffs      time of each option, layout and type relative to the plain call'
	@echo 'make docs        the documentation, in docs/_build/html'
	@echo 'make lint        ruff, mypy --strict, cython-lint; the workflows: their schema, zizmor'
	@echo 'make dist        an sdist, and a wheel built from it'
	@echo 'make clean       remove everything that was built, and the environment'
	@echo 'Choose the interpreter with PYTHON=, the environment with VENV=;'
	@echo 'ARGS= is passed on: make test ARGS="-k focal", make bench ARGS=--quick'

demo: $(STAMPS)/package $(STAMPS)/group-demo
	$(BIN)/python examples/train_digits.py

test test-all test-free-threads golden fuzz exhaustive $(STAMPS)/package-for-tests: export FASTCE_BUILD_TEST_VARIANTS = 1

test: $(STAMPS)/package-for-tests $(STAMPS)/group-test
	$(BIN)/python -m pytest $(ARGS)

# The imports come first, so that a package that is missing or broken is an error, no skipped test.
test-all: $(STAMPS)/package-for-tests $(STAMPS)/group-test $(STAMPS)/group-optional
	KERAS_BACKEND=numpy KERAS_HOME=$(VENV)/keras $(BIN)/python -W ignore -c 'import catboost, distributed, expecttest, gevent, jax, keras, lightgbm, mpi4py, netcal, numba, optax, PyInstaller, safetensors, statsmodels, torch, torchmetrics, xgboost'
	$(BIN)/python -m pytest $(ARGS)

golden: $(STAMPS)/package-for-tests $(STAMPS)/group-test
	$(BIN)/python tools/golden_bits.py

# Objects alone, in a temporary folder.
cross: $(STAMPS)/group-cross
	$(BIN)/python tools/cross.py $(ARGS)

# These build copies of their own, elsewhere.
test-clang: $(STAMPS)/group-build $(STAMPS)/group-test
	$(BIN)/python tools/clang.py $(CLANG) $(ARGS)

test-aarch64: $(STAMPS)/group-build
	$(BIN)/python tools/aarch64.py $(ARGS)

# No optional package is needed. Left out: tests that set the precision of mpmath or count memory, for
# both belong to the whole process.
test-free-threads: $(STAMPS)/package-for-tests $(STAMPS)/group-free-threads
	PYTHON_GIL=0 $(BIN)/python -m pytest -q tests/call/test_races.py tests/call/test_threads.py
	PYTHON_GIL=0 $(BIN)/python -m pytest -q --parallel-threads=4 $(PARALLEL_TESTS) \
		-k "not over_the_whole_range and not focal_exponent and not without_an_array" $(ARGS)

sanitize: $(STAMPS)/group-build $(STAMPS)/group-test
	set -e; for kind in $(KIND); do $(BIN)/python tools/sanitize.py $$kind $(ARGS); done

mutate: $(STAMPS)/group-build $(STAMPS)/group-test
	$(BIN)/python tools/mutate.py $(ARGS)

fuzz: $(STAMPS)/package-for-tests $(STAMPS)/group-test
	$(BIN)/python tools/fuzz.py $(MINUTES)

exhaustive: $(STAMPS)/package-for-tests $(STAMPS)/group-bench
	$(BIN)/python -m tools.exhaustive $(ARGS)

bench: $(STAMPS)/package $(STAMPS)/group-bench
	$(BIN)/python -m bench $(ARGS)

cliffs: $(STAMPS)/package $(STAMPS)/group-bench
	$(BIN)/python -m bench.cliffs $(ARGS)

docs: $(STAMPS)/package $(STAMPS)/group-docs
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

lint: $(STAMPS)/group-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint fastce  # it calls pycodestyle
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor -q --offline .github/workflows

dist: $(STAMPS)/group-dist
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info fastce/*.so
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache

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
	$(install-package)
	@touch $@

$(STAMPS)/package-for-tests: setup.py $(KERNELS) $(STAMPS)/group-build
	$(install-package)
	@touch $(STAMPS)/package $@

define install-package
rm -rf build fastce/*.so
$(PIP) install --no-build-isolation --no-deps --editable .
endef
