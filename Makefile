# Two commands: `make demo` and `make test`. Each sets up .venv once; a second call installs nothing.
PY ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
DEV := $(VENV)/.complete-dev

.PHONY: demo test lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, compare architectures on digits (runs/demo-<time>/report.html), solve Burgers (runs/demo-pde-<time>)"
	@echo "make test   set up, then run the tests"
	@echo "make lint   set up, then ruff and mypy"

# A set-up that was cut off leaves no stamp, and starts again from nothing.
$(STAMP): pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "odenet needs Python 3.11 or newer; install it, or name yours: make $(MAKECMDGOALS) PY=python3.12"; exit 2; }
	rm -rf $(VENV)
	$(PY) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	touch $(STAMP)

$(DEV): $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $(DEV)

demo: $(STAMP)
	$(BIN)/odenet compare --name demo-$$(date +%Y%m%d-%H%M%S) $(ARGS)
	$(BIN)/odenet pde burgers --seconds 45 --run demo-pde-$$(date +%Y%m%d-%H%M%S)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
