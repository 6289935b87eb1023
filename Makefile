# Each target makes the virtual environment on first use; `make demo` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export JUPYTER_PLATFORM_DIRS = 1
# so that the first run is as quick as the next, also where Python is told to write no bytecode
COMPILE = @$(BIN)/python -m compileall -q haystack_kernel inference tools

.PHONY: help demo test test-quick lint bench lab clean

help:
	@echo "make demo        ask the demonstration question; leaves run.ipynb and report.html in demo-run/"
	@echo "make test        the whole test suite"
	@echo "make test-quick  its quick part"
	@echo "make lint        format, lint and type checks"
	@echo "make bench       benchmarks (FULL=1 for the full sizes)"
	@echo "make lab         JupyterLab with the notebooks"

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard inference/stack/native/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,lab]"
	$(COMPILE)
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/haystack demo --storage demo-run

test: $(STAMP)
	$(COMPILE)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-quick: $(STAMP)
	$(COMPILE)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not browser and not network and not gpu and not llm"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/run.py

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf $(VENV) demo-run .pytest_cache .ruff_cache .mypy_cache build *.egg-info
