# What people and the build do with this project. `make` alone lists it.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv/bin
# The compile step needs only a standard library, and so works before the environment exists.
PYTHON = $(firstword $(wildcard $(VENV)/python) /usr/bin/python3)
# Probes need root. Without sudo the program itself says what is missing.
SUDO := $(if $(filter-out 0,$(shell id -u)),$(shell command -v sudo 2>/dev/null))
# sudo drops this one, and who set it wants it kept.
AS_ROOT = $(SUDO) $(if $(SUDO),$(if $(NO_COLOR),env NO_COLOR=1))

# What the probes and the wheel are built for. Who builds kernels may have an ARCH of theirs in the environment.
ARCH := $(or $(TRACER_ARCH),$(shell uname -m))
# Compiled once here, not at the start of each program that may not write beside its sources.
BYTECODE := .venv/.bytecode
OBJECTS := $(patsubst bpf/%.bpf.c,tracer/probes/objects/$(ARCH)/%.bpf.o,$(wildcard bpf/*.bpf.c))

.PHONY: help setup setup-tests live bpf test lint docs matrix check-attribution check-backends check-bytes check-questions check-corpus fuzz bench soak wheel deb check-deb clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

setup: ## install what is needed to run; does nothing when that is done
	@scripts/setup
	@$(MAKE) bpf $(BYTECODE)
	@echo "setup: up to date"

setup-tests: ## the same, with what the tests need
	@scripts/setup --tests
	@$(MAKE) bpf $(BYTECODE)

# Standard output belongs to the stream: `make live ARGS=--json | jq` works on a fresh machine too.
live: ## set up, then watch: make live ARGS="--duration 10"
	@scripts/setup
	@$(MAKE) bpf $(BYTECODE) >&2
	@$(AS_ROOT) $(VENV)/tracer live $(ARGS)

bpf: $(OBJECTS) ## compile the BPF programs that changed
	@:

tracer/probes/objects/$(ARCH)/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) scripts/build_bpf.py
	@TRACER_ARCH=$(ARCH) $(PYTHON) scripts/build_bpf.py $<

$(BYTECODE): $(shell find tracer -name '*.py')
	@$(VENV)/python -m compileall -q tracer
	@touch $@

test: lint ## install what the tests need, then run everything, or some: make test ARGS="-k ecs"
	$(VENV)/python -m pytest $(ARGS)
	$(if $(ARGS),,$(VENV)/python -m scripts.kernel_matrix --tested)

lint: setup-tests ## ruff and mypy
	$(VENV)/python -m ruff check .
	$(VENV)/python -m ruff format --check .
	$(VENV)/python -m mypy

docs: setup-tests ## bring the tables, the schemas and the index template up to date that are made of the events
	$(VENV)/python -m scripts.events_page
	$(VENV)/python -m scripts.event_schema
	$(VENV)/python -m scripts.index_template > docs/fleet/index-template.json.new
	mv docs/fleet/index-template.json.new docs/fleet/index-template.json

matrix: setup-tests ## boot other kernels and run the trap corpus in each: make matrix ARGS="--kernel 6.1"
	@$(VENV)/python -m scripts.kernel_matrix $(ARGS)

check-attribution: setup-tests ## compare 10,007 short connections with what the stream says of them
	@$(AS_ROOT) $(VENV)/python -m scripts.attribution.check $(ARGS)

check-backends: setup-tests ## how much each backend tells of 1,009 processes that live from 1 ms to 2 s
	@$(AS_ROOT) $(VENV)/python -m scripts.attribution.backends $(ARGS)

check-bytes: setup-tests ## hold what each flow has moved against traffic that counts itself: make check-bytes ARGS="--row udp"
	@$(AS_ROOT) $(VENV)/python -m scripts.bytes.check $(ARGS)

check-questions: setup-tests ## ask DuckDB and ClickHouse ten questions about recorded events (installs 700 MB)
	@$(VENV)/python -m pip install --quiet 'chdb>=3'
	@$(VENV)/python -m scripts.questions

check-corpus: setup-tests ## run the traps through tracer export in ECS and OCSF, and hold every line against the schemas
	@$(AS_ROOT) $(VENV)/python -m scripts.check_corpus $(ARGS)

fuzz: setup-tests ## give the parsers of DNS, TLS, HTTP and QUIC a million hostile inputs (TRACER_FUZZ_INPUTS)
	@$(VENV)/python -m tests.names.fuzz $(ARGS)

bench: setup-tests ## measure the cost of tracing beside other tools
	@$(AS_ROOT) $(VENV)/python -m scripts.bench $(ARGS)

soak: setup-tests ## an hour of events in minutes: whether memory stays where it is
	@$(AS_ROOT) $(VENV)/python -m scripts.bench --only soak $(ARGS)

wheel: setup-tests ## build the wheel, with the compiled probes and trap programs, into dist/: make wheel ARCH=aarch64
	@TRACER_ARCH=$(ARCH) $(VENV)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

deb: setup-tests ## build the .deb of Debian 12 and of Debian 13 into dist/: make deb ARGS="--release bookworm"
	@$(VENV)/python -m scripts.deb $(ARGS)

check-deb: setup-tests ## install and run each .deb in a clean Debian of its release (as root; some minutes)
	@$(AS_ROOT) scripts/check_deb $(ARGS)

clean: ## remove what was built; the environment in .venv stays
	rm -rf tracer/probes/objects dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find tracer tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
