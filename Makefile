# Everything a developer or a user of a checkout types. `make install` is what the images do, too (tests/test_packaging.py).
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
EXTRAS ?= dev
EDITABLE ?= -e
TORCH ?= torch==2.13.0
# Arguments for choosing another build of torch, such as an index of wheels for CUDA.
TORCH_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install check format test learn demo bench up clean

install: $(STAMP)

# torch first: it is the largest part, and the one whose build is chosen.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH),)
	$(BIN)/pip install $(TORCH_ARGS) -c constraints.txt $(TORCH)
endif
	$(BIN)/pip install -c constraints.txt $(EDITABLE) ".[$(EXTRAS)]"
	touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests start many processes on few cores.
test learn: export OMP_NUM_THREADS = 1

test: install
	$(BIN)/pytest -m "not learn" $(PYTEST_ARGS)

learn: install
	$(BIN)/pytest -m learn --timeout=0 $(PYTEST_ARGS)

demo: install
	$(BIN)/trainyard demo

up: install
	$(BIN)/trainyard up

bench: install
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install $(TORCH_ARGS) -c constraints.txt $(TORCH)
	benchmarks/.venv/bin/pip install -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/peers.py --peer-python benchmarks/.venv/bin/python

clean:
	rm -rf $(VENV) benchmarks/.venv
