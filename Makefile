# `make book` and `make test` are the two commands that matter; every other target is a convenience.
# All need Python >= 3.11, git and make, and no network beyond the package index.

PYTHON ?= python3
# `make env TORCH=cpu` takes PyTorch's CPU wheels: a quarter of the disk, and no GPU. What was chosen
# once stays so until `make clean`.
TORCH ?= $(or $(patsubst .venv/.installed-%,%,$(wildcard .venv/.installed-*)),default)
TORCH_PAIR = $(shell awk '/^(torch|torchvision)==/ { print $$1 }' requirements.lock)
BIN := .venv/bin
# Where uv is not installed, a private copy of it is.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv/.uv/bin/uv)

.DEFAULT_GOAL := book
.PHONY: book test env lint notebooks clean
.DELETE_ON_ERROR:

# Every notebook with the `default` profile, then the pages; prints the path of the first page last.
book: env
	@$(BIN)/geolib book

# The smoke run is the one execution of every notebook: the smoke book is built from its copies, and
# the tests compare their kept outputs by nbval's rules (`pytest --nbval-lax notebooks` runs them once
# more, under nbval itself). One call of pytest, so that its summary ends the output.
test: lint
	$(BIN)/geolib book --profile smoke
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry geolib geoscenes notebooks tests benchmarks

env: .venv/.installed-$(TORCH)

.venv/.installed-%: requirements.lock pyproject.toml | $(filter .venv/.uv/%,$(UV))
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"Python >= 3.11 is needed; name one with `make PYTHON=python3.12 env`")'
	$(UV) venv --quiet --allow-existing --no-python-downloads --python $(PYTHON) .venv
ifeq ($(TORCH),cpu)
	$(MAKE) --silent _build/requirements-cpu.lock
	$(UV) pip sync --python .venv --compile-bytecode --require-hashes _build/requirements-cpu.lock
	$(UV) pip install --python .venv --compile-bytecode --no-deps --torch-backend cpu $(TORCH_PAIR) \
		|| { echo 'TORCH=cpu: PyTorch publishes its CPU wheels on an index of its own, which could not' \
		'be reached from here. `make env` installs the wheels of the package index instead.' >&2; exit 1; }
else
	$(UV) pip sync --python .venv --compile-bytecode --require-hashes requirements.lock
endif
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	@rm -f .venv/.installed-*; touch $@

# The locked packages without PyTorch and what it needs on a GPU: for TORCH=cpu, and for conda and Binder,
# whose PyTorch comes from elsewhere.
_build/requirements-cpu.lock: requirements.lock
	mkdir -p $(@D)
	awk '/^[a-z]/ { kept = !/^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ } kept' $< > $@

.venv/.uv/bin/uv:
	($(PYTHON) -m venv .venv/.uv && .venv/.uv/bin/python -m pip install --quiet uv) \
		|| $(PYTHON) -m pip install --quiet --upgrade --target .venv/.uv uv

# After an edit of a notebook's .md source: the paired .ipynb, and the outputs that nbval compares.
notebooks: env
	$(BIN)/python -c "from geolib.book import run; run.pair(); run.keep_outputs()"

clean:
	rm -rf _build .venv
