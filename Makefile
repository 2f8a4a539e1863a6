# `make book` and `make test` are the two commands that matter; every other target is a convenience.
# All need Python >= 3.11, git and make, and no network beyond the package index.

PYTHON ?= python3
BIN := .venv/bin
# Where uv is not installed, a private copy of it is.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo _build/uv/bin/uv)

.DEFAULT_GOAL := book
.PHONY: book test env lint notebooks clean
.DELETE_ON_ERROR:

# Every notebook with the `default` profile, then the pages; prints the path of the first page last.
book: env
	@$(BIN)/geolib book

# The pages of the smoke run are built first: it fills the cache that the notebooks' replay and the
# tests of the pages then use. One call of pytest, so that its summary ends the output.
test: lint
	$(BIN)/geolib book --profile smoke
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-sanitize-with notebooks/nbval-sanitize.cfg \
		tests notebooks

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml | $(filter _build/%,$(UV))
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"Python >= 3.11 is needed; name one with `make PYTHON=python3.12 env`")'
	$(UV) venv --quiet --allow-existing --no-python-downloads --python $(PYTHON) .venv
	$(UV) pip sync --python .venv --compile-bytecode --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	@touch $@

_build/uv/bin/uv:
	($(PYTHON) -m venv _build/uv && _build/uv/bin/python -m pip install --quiet uv) \
		|| $(PYTHON) -m pip install --quiet --upgrade --target _build/uv uv

# After an edit of a notebook's .md source: the paired .ipynb, and the outputs that nbval compares.
notebooks: env
	$(BIN)/python -c "from geolib import run; run.pair(); run.keep_outputs()"

clean:
	rm -rf _build .venv
