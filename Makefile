# Everything a developer needs; `make help` lists it. Debian packages and the Python environment are
# installed by the targets that need them.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PACKAGES := python3 python3-venv gcc libc6-dev musl-tools

.DEFAULT_GOAL := help
.PHONY: help demo test e2e e2e-long fuzz cluster compare lab lab-long lab-shell bench shim stubs format clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/ready shim ## a VF from a real (emulated) NIC into a pod's namespace and home again, 1 to 2 minutes once built
	@$(RUN) -m tests.lab build
	@timeout --foreground 600 $(RUN) -m tests.lab run -- python3 -u -m tests.lab.demo

test: $(VENV)/ready shim ## every test tier that this machine can run, but for the cluster
	@$(RUN) -m pytest -m "not e2e and not long" $(ARGS)

e2e: $(VENV)/ready shim ## the product on a real cluster: its node is the lab VM
	@$(RUN) -m pytest -m "e2e and not long" tests/e2e $(ARGS)

e2e-long: $(VENV)/ready shim ## long trials on the cluster: 20 rounds of bursts
	@$(RUN) -m pytest -m "e2e and long" tests/e2e $(ARGS)

fuzz: $(VENV)/ready shim ## millions of malformed calls: of the CNI executable, and of the agent
	@$(RUN) -m pytest -m long tests/fuzz $(ARGS)

cluster: $(VENV)/ready shim ## leave the cluster up and say how to use it, until Ctrl-C
	@$(RUN) -m tests.e2e up

compare: $(VENV)/ready shim ## bursts, ADD and DEL times, faults: the existing stack and vfpool, side by side, into the README
	@$(RUN) -m tests.e2e compare

lab: $(VENV)/ready ## build the lab VM's image into the cache
	@$(RUN) -m tests.lab build

lab-long: $(VENV)/ready shim ## long trials in the lab, 8 PFs with 7 VFs each: there and back, and a storm of pods
	@$(RUN) -m pytest -m "lab and long" $(ARGS)

lab-shell: $(VENV)/ready shim ## a shell in the lab VM
	@$(RUN) -m tests.lab shell

bench: $(VENV)/ready shim ## speed, side by side with a floor or a peer
	@$(RUN) -m tests.bench

shim: cni/shim/vfpool ## compile the CNI executable

cni/shim/vfpool: cni/shim/vfpool.c cni/shim/build.py | $(VENV)/ready
	@$(RUN) cni/shim/build.py

stubs: $(VENV)/ready ## regenerate the kubelet's gRPC stubs from their .proto files
	@$(RUN) -m tests.support.stubs

format: $(VENV)/ready ## sort imports and apply the linter's safe fixes
	@$(VENV)/bin/ruff check --fix .

clean: ## remove what the other targets made here (the lab's cache stays)
	rm -rf $(VENV) cni/shim/vfpool dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && command -v gcc >/dev/null && command -v musl-gcc >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian packages: $(PACKAGES)" && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	  else echo "missing: run as root, or: apt-get install $(PACKAGES)" >&2; exit 1; fi; }
	@echo "setting up the Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check --editable '.[dev]'
	@touch $@
