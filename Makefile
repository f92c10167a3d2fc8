# Two commands do all set-up: `make demo` and `make test`. Both use .venv in this folder.
PYTHON ?= python3
BIN := .venv/bin
# tests/conftest.py says which tests stay on one worker, and puts long files first.
PYTEST := $(BIN)/pytest -n 2

.PHONY: demo test check lint pytest docs env clean

demo: env
	$(BIN)/landcover demo --out demo

# mypy uses one core alone, so it runs beside the tests.
test: env
	$(MAKE) --jobs=2 lint pytest

pytest: env
	$(PYTEST)

# The fast loop of a developer: without the tests that tests/conftest.py names as slow.
check: lint
	$(PYTEST) -m "not slow"

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Warnings are errors; nothing is fetched. The site is docs/_build/html/index.html.
docs: env
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/landcover page --out docs/_build/html/landcover.html --force

env: .venv/.done

# The stamp comes last, so that an interrupted installation is done again.
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "landcover needs Python 3.11 or newer; run: make PYTHON=python3.11 …")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo
