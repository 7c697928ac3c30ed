# make demo   a small real sweep on the built-in digits, and its table
# make test   the whole test suite
# make lint   ruff and mypy
# make clean  what these made

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo-results
READY = $(VENV)/.tpbench-ready
SWEEP = $(VENV)/bin/tpbench sweep digits

.PHONY: demo test lint setup clean

demo: $(READY)
	$(SWEEP) bp --trials 8 --pack 4 --epochs 10 --seeds 5 --results $(DEMO)
	$(SWEEP) dfa --trials 8 --pack 4 --epochs 10 --seeds 5 --results $(DEMO)
	$(SWEEP) ddtp-linear --trials 8 --pack 4 --epochs 10 --seeds 5 --results $(DEMO)
	$(VENV)/bin/tpbench leaderboard digits --results $(DEMO)

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tpbench needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
