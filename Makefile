# `make demo` and `make test` work on a fresh machine with Python >= 3.11, g++ and internet. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint receipts prove bench-build clean
.DELETE_ON_ERROR:

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Build, verify, size, train and compare two recurrent variants and a baseline; the last line is the path of the report.
# With a GPU the kernels run for a minute each; without one the smoke suite runs on the CPU.
demo: SUITE := $(if $(shell nvidia-smi -L 2>/dev/null),demo,smoke)
demo: .venv/installed
	$(BIN)/elmanctl doctor
	$(BIN)/elmanctl data make --size 20M
	$(BIN)/elmanctl verify E42 E88 --quick
	$(BIN)/elmanctl dims E75h4n32 --params 100M
	$(BIN)/elmanctl bench $(SUITE) --run demo --again

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One variant of each kernel family, every variant whose receipt is stale, red or missing, and other forms whose receipt is stale or red.
receipts: .venv/installed
	$(BIN)/elmanctl verify --changed --device cpu

# Every host receipt anew, with planted mistakes and sanitizers: five to ten minutes of processor time for each variant.
prove: .venv/installed
	$(BIN)/elmanctl verify --all --device cpu --prove --sanitize

bench-build: .venv/installed
	$(BIN)/python bench/build_time.py

clean:
	rm -rf .venv build *.egg-info
