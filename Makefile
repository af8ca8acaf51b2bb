# The door to everything: needs Python 3.11 to 3.13 and make, nothing else.
#   make demo     the main job on a built-in data set
#   make test     the tests
# Both make the environment `.venv` first, once. Another interpreter: make PYTHON=/path/to/python3.12

PYTHON ?= python3.11 python3.12 python3.13 python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
SUITABLE := 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --durations 10

KERNELS := $(wildcard $(addprefix tests/test_,$(addsuffix .py,criteria fine_tuning loading_data_formats \
	model_forms quantization_training consumers recovery_refitting)))

.PHONY: help demo test test-plain-cpu test-all fuzz harness-agreement coverage-table model-files-table statistics-table predictor-table calibration-table latency-table quantization-table lint types format clean test-versions test-oldest test-newest
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make demo      build, prove and bench a small specialist from handwritten digits"
	@echo "make test      the tests (minutes)"
	@echo "make test-plain-cpu  those that kernels matter to, as on a CPU without AVX-512 (minutes)"
	@echo "make test-all  the same and the slow ones, with branch coverage (an hour)"
	@echo "make fuzz      2,000 random networks, 500 damaged files, 60 hostile boards, 60 kills; goes on where it was (hours)"
	@echo "make test-versions  what a user types, on the oldest and the newest TensorFlow and Keras"
	@echo "make coverage-table  cut and prove all models of keras.applications (an hour)"
	@echo "make model-files-table  open, prune and convert real files (../shared/data)"
	@echo "make statistics-table   what statistics cost beside a forward pass (minutes)"
	@echo "make predictor-table  fit the latency predictor to MLPerf's Raspberry Pi 4 (seconds)"
	@echo "make calibration-table  calibrate this machine, then predict 24 networks (10 minutes)"
	@echo "make latency-table  meet latency budgets on this machine by measuring (half an hour)"
	@echo "make experiments all methods on three models, without and with retraining (three hours)"
	@echo "make harness-agreement MODELS='a.tflite ...'  our latencies against the runtime's own benchmark"
	@echo "make quantization-table  every scheme on four models, whole and pruned (half an hour)"
	@echo "make lint      style, formatting and the direction of imports"
	@echo "make types     static types"
	@echo "make format    rewrite the sources in the project's style"
	@echo "make clean     remove the environment and everything that was made"

demo: $(VENV)/.ready
	$(BIN)/edgeprune demo --out demo-output

test: $(VENV)/.ready-for-development
	$(PYTEST)

test-plain-cpu: $(VENV)/.ready-for-development
	TF_ENABLE_ONEDNN_OPTS=0 $(PYTEST) -k "not command and not every_backend" $(KERNELS)

test-all: $(VENV)/.ready-for-development
	$(PYTEST) -m "" --cov --cov-report=term

fuzz: $(VENV)/.ready-for-development
	$(BIN)/python -P tests/fuzzing/campaign.py --log fuzz.jsonl

# Each pair of versions has an environment of its own, made with the constraints of its name.
SMOKE := $(foreach name,smoke cli imports rules models loading conversion,tests/test_$(name).py)
test-versions: test-oldest test-newest
test-newest: PYTHON := python3.13 python3.12 python3.11 python3
.venv-oldest/.ready: tests/versions/oldest.txt
.venv-newest/.ready: tests/versions/newest.txt
test-oldest test-newest: test-%:
	PIP_CONSTRAINT=tests/versions/$*.txt $(MAKE) VENV=.venv-$* PYTHON="$(PYTHON)" .venv-$*/.ready-for-development
	.venv-$*/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal --quiet --disable-warnings $(SMOKE)

harness-agreement: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/harness_agreement.py $(MODELS)

coverage-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/architectures.py

model-files-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/model_files.py

statistics-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/statistics_pass.py

predictor-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/predictor.py

calibration-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/calibration.py

latency-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/latency_budgets.py

experiments: $(VENV)/.ready-for-development
	$(BIN)/python -m benchmarks.experiments

quantization-table: $(VENV)/.ready-for-development
	$(BIN)/python benchmarks/quantization.py

lint: $(VENV)/.ready-for-development
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check --no-cache .
	$(BIN)/lint-imports

types: $(VENV)/.ready-for-development
	$(BIN)/mypy

format: $(VENV)/.ready-for-development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest demo-output build dist *.egg-info .coverage* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in $(PYTHON); do \
		$$python -c $(SUITABLE) 2>/dev/null || continue; \
		echo "Creating $(VENV) with $$($$python --version)"; \
		exec $$python -m venv $(VENV); \
	done; \
	echo "No Python 3.11, 3.12 or 3.13 with venv was found. Install one (Debian, Ubuntu:" >&2; \
	echo "apt install python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 2

$(VENV)/.ready: setup.py pyproject.toml | $(VENV)/bin/python
	@echo "Installing edgeprune with TensorFlow into $(VENV): a download of about 700 MB, once"
	$(INSTALL) '.[tensorflow]'
	@touch $@

$(VENV)/.ready-for-development: $(VENV)/.ready
	@echo "Installing the tools for tests, style and types"
	$(INSTALL) '.[tensorflow,dev]'
	@touch $@
