# `make demo` and `make test` need nothing but Python 3.11 or later: each sets up what
# it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest lint docs bench clean

.venv/demo: pyproject.toml constraints.txt hatch_build.py sklstm/*.c
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable ".[test]"
	touch $@

.venv/docs: .venv/demo
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable ".[docs]"
	touch $@

demo: .venv/demo
	$(BIN)/python examples/demo.py

test: .venv/test lint
	$(BIN)/python -m pytest --numprocesses 2

# The oldest versions of what sklstm stands on; on Python 3.11, which they need.
OLDEST := .venv-oldest/bin
.venv-oldest/test: pyproject.toml constraints-oldest.txt hatch_build.py sklstm/*.c
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet -c constraints-oldest.txt --editable ".[test]"
	touch $@

test-oldest: .venv-oldest/test
	$(OLDEST)/python -m pytest --numprocesses 2

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/demo
	$(BIN)/python benchmarks/bundled.py
	$(BIN)/python benchmarks/hochreiter1997.py

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .ruff_cache
	rm -rf .mypy_cache sklstm/*.so
	rm -rf docs/_build docs/gallery docs/generated docs/sg_execution_times.rst
