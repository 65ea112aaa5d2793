# make demo   set up, build, and run the main job; prints where the report is
# make test   set up, build, and run every check: lint, types, import rules, C++ tests (also under sanitizers), Python tests
# make lint | test-cpp | test-python | sweep | bench | docs | format | clean
#
# Needs Python 3.11+, a C++20 compiler and make; everything else is fetched into .venv. Quick the second time.

PYTHON ?= python3
NANOMD_CUDA ?= AUTO
DEMO_RUN ?= demo_run
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

# Small models gain nothing from many threads, and oversubscribed cores lose much.
export OMP_NUM_THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); if [ $$n -gt 4 ]; then echo 4; else echo $$n; fi)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
export PATH := $(CURDIR)/$(BIN):$(PATH)

CPP_SOURCES := $(foreach kind,cpp h cu cuh,$(wildcard csrc/*/*.$(kind) csrc/*/*/*.$(kind))) $(wildcard examples/cpp/*.cpp)
# A new sub-package has to be made known to the editable install; an edited module does not.
PACKAGES := $(wildcard nanomd/__init__.py nanomd/*/__init__.py kernels/__init__.py kernels/*/__init__.py)

.PHONY: all demo test lint format test-cpp test-python sweep bench docs clean venv
all: venv

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "nanomd needs Python 3.11 or newer, but $(PYTHON) is %d.%d: try `make PYTHON=python3.11 $(MAKECMDGOALS)`" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# What the demo needs of the package's extras.
EXTRAS := train,md,report,profile

# The package itself, editable, with the versions that it is tested with. (It was called nanomd once: that is removed.)
$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt CMakeLists.txt $(CPP_SOURCES) $(PACKAGES)
	@if [ -d $(VENV)/lib/python3*/site-packages/nanomd-0.1.0.dist-info ]; then $(PY) -m pip uninstall --quiet --yes nanomd; fi
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' --config-settings=cmake.define.NANOMD_CUDA=$(NANOMD_CUDA)
	@touch $@

# The tools of the tests, as named by the extras of pyproject.toml.
$(VENV)/.tools: $(VENV)/.installed pyproject.toml constraints.txt
	$(PY) -m pip install --quiet --constraint constraints.txt $$($(PY) -c 'import tomllib; e = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*e["test"], *e["dev"])')
	@touch $@

venv: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/nanomd demo --run $(DEMO_RUN)

# The two kinds of test side by side; when those in C++ are through, two processes of the others have a core each.
test: lint
	+@$(MAKE) --no-print-directory -j2 --output-sync=target test-cpp test-python
	@echo "all checks passed"

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES)
	$(PY) -m mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_SOURCES)

CPP_TEST = cmake -S . -B $(1) -G Ninja -DNANOMD_BUILD_PYTHON=OFF -DNANOMD_BUILD_TESTS=ON -DNANOMD_CUDA=OFF $(2) >/dev/null \
	&& cmake --build $(1) -j $(JOBS) && ctest --test-dir $(1) --output-on-failure -j $(JOBS) $(3)

# Each of the two long tests of emulated kernels in one of the builds: they take minutes. `make sweep` has the other half.
test-cpp: $(VENV)/.tools
	$(call CPP_TEST,build/tests,,-E test_cuda_session)
	$(call CPP_TEST,build/tests-sanitized,-DNANOMD_SANITIZE=ON,-E test_cuda_variants)

# One thread: spinning teams of threads slow small work down on busy cores. Plain pytest: `python -m pytest` would put the source tree, which has no compiled core, in front.
test-python: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --durations=15 --numprocesses 2 --dist loadfile

# Every head size and layout of the training kernels, interpreted and compiled for three architectures, and every variant of the
# emulated kernels under the sanitizers: a quarter of an hour.
sweep: $(VENV)/.tools
	$(BIN)/pytest -q -m sweep
	$(call CPP_TEST,build/tests-sanitized,-DNANOMD_SANITIZE=ON,-R test_cuda_variants)

bench: $(VENV)/.installed
	$(BIN)/nanomd bench

# The site; a warning is an error. The tests build it, too.
docs: $(VENV)/.tools
	$(PY) docs/fill_numbers.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find nanomd kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
