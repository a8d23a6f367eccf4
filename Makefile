# The two commands, and the handful a developer repeats.
#
#   make train    install, then train LeNet-5 on the bundled digits into $(WORKDIR)
#   make test     install what the tests need, then run all tests but the long ones
#   make test-durations the same as test, and what the slowest tests took
#   make test-all the same as test, and the compilers, then the long ones
#   make lint     format, rules, types and the direction of imports
#   make format   put right what the formatter and the rules can put right
#   make compilers the compilers of TPUs and GPUs, 1.2 GB, for the tests that compile for them
#   make soak     train for half an hour and print what grows: memory, descriptors, threads, disk
#   make peers    the environment with PyTorch that writes the reference fixtures
#   make clean    remove the environments and the caches; runs stay

PYTHON ?= python3.12
PEERS_PYTHON ?= python3.11
WORKDIR ?= runs/lenet5_digits
# One more than the cores of a small machine, as tests also wait for disks and processes; each takes about 3 GB.
WORKERS ?= 3

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile
SOURCES := dlcore experiments kernels tests notebooks

.PHONY: train test test-durations test-all lint format soak compilers peers clean

train: .venv/installed
	$(BIN)/python -m experiments.train --recipe=lenet5_digits --workdir=$(WORKDIR)

test: .venv/installed-test
	$(PYTEST) -m "not slow"

test-durations: .venv/installed-test
	$(PYTEST) -m "not slow" --durations=50 --durations-min=1

# The compilers first: the short tests use them where they are.
test-all: compilers test
	$(PYTEST) -m slow

lint: .venv/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

soak: .venv/installed
	$(BIN)/python -m experiments.soak

compilers: .compilers/installed

peers: .peers/installed

clean:
	rm -rf .venv .compilers .peers .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was installed from, so that a second call installs nothing.
.venv/installed: pyproject.toml constraints.txt | .venv
	@echo "Installing into .venv; the first time this takes a minute or two."
	$(INSTALL) --editable .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv
	@echo "Installing into .venv; the first time this takes a minute or two."
	$(INSTALL) --editable '.[test,notebooks]'
	@touch .venv/installed $@

.venv:
	@# A half-made environment would pass for a whole one.
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }

# Without what they depend on: that is jax itself, and libraries that only running needs.
.compilers/installed: compilers.txt .venv/installed-test
	@echo "Installing the compilers into .compilers: 1.2 GB."
	rm -rf .compilers
	version=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && \
	$(INSTALL) --no-deps --target .compilers --requirement compilers.txt \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version
	@touch $@

# PyPI's PyTorch for newer Pythons is a CUDA build of several GB, hence an environment of its own.
.peers/installed:
	$(PEERS_PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 'numpy>=2,<3'
	@touch $@
