# The commands of this project. Each installs and builds what it needs and is quick the second time.
#
# Recipes that need root elevate themselves with sudo where we are not root. Slow builds (the
# Collector, other kernels) are kept by version under ~/.cache/retina-otel, or $RETINA_OTEL_CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup objects collector backends kubernetes kernel-images check static unit test netns e2e cluster kernels bench docs demo lab clean

PY := .venv/bin/python
ROOT := $(if $(filter 0,$(shell id -u)),,tools/as-root)
PYTEST := $(PY) -m pytest
# As another user's root we leave no cache files behind in the tree.
ROOT_PYTEST := $(ROOT) $(PYTEST) $(if $(ROOT),-p no:cacheprovider)
STRICT := --expected-skips tests/expected-skips.txt
DURATION ?=
ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS=... is passed on to pytest or to the demo; DURATION=20s ends the demo by itself."

setup: ## system packages that are missing, .venv, BPF objects
	@tools/setup

objects: ## compile bpf/*.bpf.c into retina_otel/_bpf
	@tools/build-objects

collector: setup ## build the OpenTelemetry Collector that the tests use (about 2 minutes, once)
	@tools/build-collector >/dev/null

backends: setup ## build Prometheus, Loki, a Kafka broker for the tests (about 4 minutes, once)
	@tools/build-backends

kubernetes: setup ## build Kubernetes, etcd, CoreDNS, Helm for the tests (about 11 minutes, once)
	@tools/build-kubernetes >/dev/null

kernel-images: ## fetch the kernels that the tests boot (once)
	@tools/setup --kernels
	@tools/kernels fetch

static: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

unit: setup ## tests without root and without a kernel
	@$(PYTEST) tests/unit tests/contract -q $(ARGS)

check: static unit ## format, lint, types, import contracts, unit tests

test: static collector backends kubernetes kernel-images ## all but bench
	@$(ROOT_PYTEST) tests --ignore=tests/bench $(STRICT) $(ARGS)

netns: setup ## real traffic in network namespaces (root)
	@$(ROOT_PYTEST) tests/kernel tests/netns $(STRICT) $(ARGS)

e2e: collector backends ## with the real Collector and real backends (root)
	@$(ROOT_PYTEST) tests/e2e $(STRICT) $(ARGS)

cluster: kubernetes ## on a real API server and a real node with real pods (root)
	@$(ROOT_PYTEST) tests/cluster $(STRICT) $(ARGS)

kernels: setup kernel-images ## boot other kernels and count there (root, under emulation)
	@$(ROOT_PYTEST) tests/kernels -v $(STRICT) $(ARGS)

bench: setup ## what a packet, a flow, a series cost; prints, and writes build/bench.json (root)
	@$(ROOT) $(PY) -m tests.bench $(ARGS)

docs: setup ## write the generated reference pages, then test the documentation
	@$(PY) -m retina_otel.cli.reference.pages
	@$(PY) -m retina_otel.cli.reference.registry
	@$(PY) tools/constants.py
	@$(PY) tools/readme_signals.py
	@$(PY) tools/retina_users.py
	@.venv/bin/retina-otel dashboards grafana >charts/retina-otel/files/dashboard.json
	@.venv/bin/retina-otel dashboards alerts >charts/retina-otel/files/alerts.yaml
	@$(ROOT_PYTEST) tests/docs $(ARGS)

demo: setup ## the lab, the agent before it, and a live view of what it sees (root)
	@$(ROOT) .venv/bin/retina-otel demo $(if $(DURATION),--duration $(DURATION)) $(ARGS)

demo-backends: collector backends ## the demo with a Collector and a Prometheus behind the agent (root)
	@$(ROOT) .venv/bin/retina-otel demo --backends $(if $(DURATION),--duration $(DURATION)) $(ARGS)

lab: kubernetes ## a real cluster with sample workloads, until Ctrl-C (root)
	@$(ROOT) $(PY) -m retina_otel.testing.cluster $(ARGS)

clean: ## what was built in this folder; not the caches outside it
	rm -rf build .venv retina_otel/_bpf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find retina_otel tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
