# The commands of this repository. Everything works in a fresh clone on a machine with python3 >= 3.11, git and make.
#
# The environment is .venv; it is made once and brought up to date when pyproject.toml or constraints.txt changes.
# On Linux, a plain PyPI may offer torch with CUDA (2 GB). For the CPU build:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# With a space in place of =, pytest takes the record of an earlier run for a path to test, before it knows the option.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS) --record-contract-status=contracts-status.json

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench docs clean

help:
	@echo "make demo      the main job, end to end, on real text: train, be mislabelled, be refused, be repaired, resume"
	@echo "make test      the tests (under 12 minutes on 2 cores)"
	@echo "make test-all  all tests, also slow, interop and fuzz"
	@echo "make lint      ruff, mypy and the one-way imports"
	@echo "make bench     every benchmark; each prints hardware, versions and its figures"
	@echo "make docs      write the generated pages again"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: apr needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q src
	@touch $@

demo: $(INSTALLED)
	$(BIN)/apr demo --force

test: $(INSTALLED)
	$(PYTEST) -m "not slow and not interop and not fuzz and not gpu"

test-all: $(INSTALLED)
	$(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	@for script in $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python $$script || exit 1; \
	done

docs: $(INSTALLED)
	@for script in tools/build_*_reference.py; do $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
