# Everything a checkout needs: Python 3.11 or newer with venv, and make. Nothing is compiled.

PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

# Without a display, MuJoCo renders through EGL.
ifeq ($(shell uname -s)$(DISPLAY)$(MUJOCO_GL),Linux)
export MUJOCO_GL := egl
endif

# The tests start many processes: each would compile wmgym anew. Threads that wait for others spin by default,
# which costs the processes beside them their core.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint format docs clean

help: ## Show this list
	@echo 'Usage: make TARGET [PYTHON=python3]'
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## HalfCheetah, 10,000 real steps: a world, a policy, and a page on both: runs/demo [SEED=0]
	$(BIN)/wmgym run HalfCheetah-v5 --seed $(SEED) --out runs/demo

test: $(VENV)/.installed-all ## Run the quick tests, in two processes: four to seven minutes
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: $(VENV)/.installed-all ## Run every test, the slow ones too
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m '' --timeout 3600

lint: $(VENV)/.installed-all ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict wmgym

format: $(VENV)/.installed-all ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-all ## Build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

clean: ## Remove the virtual environment, builds and caches, but not runs/
	rm -rf $(VENV) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-demo: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[sb3,report]'
	touch $@

$(VENV)/.installed-all: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'wmgym needs Python 3.11 or newer: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	  || { echo 'Python has no venv; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@
