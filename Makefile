# make demo | test | test-lowest | test-matrix | check | bench: each makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The oldest Python where there is one; the oldest releases have wheels for 3.11 as well.
PYTHON_LOWEST ?= $(shell python3.10 -c '' 2> /dev/null && echo python3.10 || echo $(PYTHON))
LOWEST ?= .venv-lowest
# One thread per process: convolutions this small only fight over cores.
export OMP_NUM_THREADS ?= 1
# A process per core; a file's tests stay together, since they share what is slow to make.
PYTEST := pytest -n auto --dist loadfile

.PHONY: demo test test-lowest test-matrix check bench clean

demo: $(VENV)/demo
	$(BIN)/python -m lightning_saliency fit --config configs/demo.yaml

test: $(VENV)/dev
	$(BIN)/$(PYTEST)

test-lowest: $(LOWEST)/dev
	$(LOWEST)/bin/$(PYTEST)

test-matrix: $(VENV)/dev
	$(BIN)/python docs/harmless.py

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/$(PYTEST)

bench: $(VENV)/dev
	$(BIN)/python benchmarks/peers.py --quick
	$(BIN)/python benchmarks/write_pictures.py
	$(BIN)/python benchmarks/overhead.py

$(VENV)/demo: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/dev: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(LOWEST)/dev: pyproject.toml constraints/lowest.txt
	test -d $(LOWEST) || $(PYTHON_LOWEST) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --constraint constraints/lowest.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) runs lightning_logs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
