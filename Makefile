# Each target sets up what it needs in .venv; nothing else has to be installed but git, make and Python 3.11 or later.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Tests and benchmarks compare bits and run side by side: one BLAS thread a process.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Without bytecode kept beside the sources every service and every child compiles torch again, in twice the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow faults soak up bench bench-full lint clean

demo: .venv/run.stamp
	$(BIN)/expunge demo --out demo-output $(if $(DATA),--data $(DATA))

test: .venv/dev.stamp lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: .venv/dev.stamp
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow --timeout 3600

# Kills workers, servers and APIs again and again, on private servers; EXPUNGE_SCHEDULES says how many simulated schedules.
faults: .venv/dev.stamp
	$(BIN)/python -m tests.figures --clear
	$(ONE_THREAD) $(BIN)/python -m pytest -m faults -n 2 --timeout 3600; ended=$$?; $(BIN)/python -m tests.figures; exit $$ended

# Thousands of requests while somebody is killed every few seconds; EXPUNGE_SOAK=REQUESTS,MODELS,WORKERS,SECONDS_BETWEEN_KILLS.
soak: .venv/dev.stamp
	$(BIN)/python -m tests.figures --clear
	$(ONE_THREAD) $(BIN)/python -m pytest -m faults tests/faults/test_soak.py; ended=$$?; $(BIN)/python -m tests.figures; exit $$ended

# The steps of docker-compose.yml without a container engine: PostgreSQL, Redis, an API and a worker on this machine.
up: .venv/dev.stamp
	$(BIN)/python -m deploy.up $(UP)

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks

bench-full: .venv/dev.stamp
	$(BIN)/python -m benchmarks --full

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy expunge models service workers benchmarks deploy

clean:
	rm -rf .venv demo-output .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/run.stamp: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[service,worker]'
	touch $@

.venv/dev.stamp: pyproject.toml .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[service,worker,s3,dev]'
	touch $@ .venv/run.stamp
