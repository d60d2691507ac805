# Each target installs what it needs in $(VENV). Only make, Python 3.11 or newer and a C++ compiler
# have to be there. Stamp files in $(VENV)/stamps record which steps are done. When a kernel or a
# build file is newer than its stamp, all extension modules are rebuilt from scratch. For the tests,
# two more modules are built: they run the code for wide vectors, and for none, on any machine.

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
# A pattern rule makes the stamps of dependency groups. Without this line, make would delete them as
# intermediate files.
.SECONDARY:

.PHONY: help demo test test-all test-clang test-aarch64 test-free-threads golden cross sanitize fuzz
.PHONY: mutate exhaustive bench cliffs docs lint dist clean
.NOTPARALLEL:

help:
	@echo 'make demo        train a digit classifier with fastce as its loss, and plot the run'
	@echo 'make test        build the package and run the test suite'
	@echo 'make test-all    the same, with torch, JAX and all other optional packages installed'
	@echo 'make test-clang  check that a build with CLANG=clang++ gives the same bits as GCC'
	@echo 'make test-aarch64  tests of the kernels for Arm, emulated; on Debian'
	@echo 'make golden      record the bits of all results again, after a change that alters them on purpose'
	@echo 'make cross       compile the kernels for macOS, Windows, musl and Arm, without linking or running'
	@echo 'make test-free-threads  each test in four threads at once; set PYTHON=python3.14t and a separate VENV='
	@echo 'make sanitize    the tests under sanitizers and valgrind; KIND=address, thread, integer or memory'
	@echo 'make fuzz        random calls against the reference, for MINUTES=30'
	@echo 'make mutate      break the package on purpose, and check that the tests notice'
	@echo 'make exhaustive  the errors of exp, log1p, log and tanh for every float32 number'
	@echo 'make bench       time and error of each loss, compared with peers and with copying the array'
	@echo 'make cliffs      time of each option, layout and type relative to the plain call'
	@echo 'make docs        the documentation, in docs/_build/html'
	@echo 'make lint        ruff, mypy --strict, cython-lint; for the workflows, their schema and zizmor'
	@echo 'make dist        an sdist, and a wheel built from it'
	@echo 'make clean       remove everything that was built, and the environment'
	@echo 'Set the interpreter with PYTHON= and the environment with VENV=.'
	@echo 'ARGS= is passed to the command: make test ARGS="-k focal", make bench ARGS=--quick'

demo: $(STAMPS)/package $(STAMPS)/group-demo
	$(BIN)/python examples/train_digits.py

test test-all test-free-threads golden fuzz exhaustive $(STAMPS)/package-for-tests: export FASTCE_BUILD_TEST_VARIANTS = 1

# In as many processes as there are processors; ARGS="-n 0" runs all tests in one. In each of them, other
# libraries would start as many threads again, which wait for each other.
test test-all: export OPENBLAS_NUM_THREADS = 1
test test-all: export OMP_NUM_THREADS = 1

test: $(STAMPS)/package-for-tests $(STAMPS)/group-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# The imports come first: a missing or broken package has to be an error, not a skipped test.
test-all: $(STAMPS)/package-for-tests $(STAMPS)/group-test $(STAMPS)/group-optional
	KERAS_BACKEND=numpy KERAS_HOME=$(VENV)/keras $(BIN)/python -W ignore -c 'import catboost, distributed, expecttest, gevent, jax, keras, lightgbm, mpi4py, netcal, numba, optax, PyInstaller, safetensors, statsmodels, torch, torchmetrics, xgboost'
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

golden: $(STAMPS)/package-for-tests $(STAMPS)/group-test
	$(BIN)/python tools/golden_bits.py

# The object files go to a temporary folder.
cross: $(STAMPS)/group-cross
	$(BIN)/python tools/cross.py $(ARGS)

# These targets build their own copies of the package in other folders.
test-clang: $(STAMPS)/group-build $(STAMPS)/group-test
	$(BIN)/python tools/clang.py $(CLANG) $(ARGS)

test-aarch64: $(STAMPS)/group-build
	$(BIN)/python tools/aarch64.py $(ARGS)

# Needs no optional package. Tests that set the precision of mpmath or count memory are left out,
# because both affect the whole process.
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

# The installation is editable, so edits of Python files take effect at once. Old modules are removed
# first, so that only modules built from the current sources can be imported.
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
