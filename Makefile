# make demo | test | check | bench: each makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread per process: convolutions this small only fight over cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench clean

demo: $(VENV)/demo
	$(BIN)/python -m lightning_saliency fit --config configs/demo.yaml

test: $(VENV)/dev
	$(BIN)/pytest

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(VENV)/dev
	$(BIN)/python benchmarks/one_pass.py
	$(BIN)/python benchmarks/write_pictures.py

$(VENV)/demo: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/dev: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs lightning_logs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
