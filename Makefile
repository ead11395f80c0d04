# Two commands: `make quickstart` (from nothing to segmented pictures) and `make test`.
# Each makes the virtual environment and installs what it needs; a second call installs nothing.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed-demo
	$(VENV)/bin/clippy quickstart

test: lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
