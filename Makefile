# make demo   a small real campaign on the built-in digits, and its table
# make test   the whole test suite, and its slowest ten
# make lint   ruff and mypy
# make lowest the fast tests with the lowest versions that pyproject.toml permits (downloads a few GB)
# make docs   the documentation as a site, in site/: strict, a link to nothing fails
# make clean  removes what these made

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo-results
LOWEST ?= .venv-lowest
SITE ?= site
JOBS ?= 2
READY = $(VENV)/.tpbench-ready

.PHONY: demo test lint lowest docs setup clean

demo: $(READY)
	$(VENV)/bin/tpbench sweep digits bp,dfa,ddtp-linear --trials 8 --pack 4 --epochs 10 --n-seeds 10 --results $(DEMO)
	$(VENV)/bin/tpbench leaderboard digits --results $(DEMO)

test: $(READY)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup --durations=10

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

lowest:
	$(PYTHON) -m venv $(LOWEST)/uv
	$(LOWEST)/uv/bin/python -m pip install --quiet uv
	$(LOWEST)/uv/bin/uv venv --quiet --allow-existing --python 3.11 $(LOWEST)/env
	$(LOWEST)/uv/bin/uv pip install --quiet --python $(LOWEST)/env --resolution lowest-direct --editable '.[dev,s3,gcs]'
	$(LOWEST)/env/bin/python -m pytest -m 'not slow' --durations=10

# material's warning is of what its authors do next, not of these documents.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --site-dir $(SITE)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tpbench needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@echo 'installing into $(VENV): several GB, some minutes, once'
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(DEMO) $(SITE)
