# SPDX-License-Identifier: LGPL-2.1-or-later
# make demo    the package built, installed, and a container run (as root, Debian 12 or 13)
# make check   all tests that need minutes (as root); the rest is listed by `make help`

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON = /usr/bin/python3
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' lxc_oci/__init__.py)
# With Debian's revision.
PACKAGE_VERSION := $(shell sed -n '1s/^lxc-oci-py (\(.*\)) .*/\1/p' debian/changelog)
CACHE = .cache
RUFF_VERSION = 0.17.6
SOURCES := $(shell find $(wildcard COPYING CONTRIBUTING.md MANIFEST.in NEWS.md README.md SECURITY.md bin completion debian docs hooks \
	lxc_oci man packaging setup.cfg setup.py templates) -type f -not -name '*.pyc')

# A run as root must leave nothing in the checkout.
export PYTHONDONTWRITEBYTECODE = 1
export LC_ALL = C.UTF-8
export HYPOTHESIS_STORAGE_DIRECTORY = $(abspath $(CACHE))/hypothesis

PYTEST = $(PYTHON) -m pytest -q
SHORT = not box and not long

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

## Building

.PHONY: deb
deb: dist/lxc-oci-py_$(PACKAGE_VERSION)_all.deb ## dist/*.deb, what `apt install ./dist/*.deb` needs

dist/lxc-oci-py_$(PACKAGE_VERSION)_all.deb: $(SOURCES)
	@packaging/install build
	@packaging/wheel2deb.py dist
	@packaging/build-deb dist

.PHONY: stdeb
stdeb: ## the same package, made by stdeb from setup.cfg alone, in dist/stdeb
	@packaging/install build
	@packaging/install stdeb
	@packaging/build-deb dist/stdeb stdeb

.PHONY: install
install: deb ## build the package and install it (as root)
	@packaging/install package

.PHONY: demo
demo: demo-packages install ## make a container from an image made on the spot, and run it (as root)
	@packaging/demo

.PHONY: clean
clean: ## remove what the targets above made
	rm -rf dist build $(CACHE) *.egg-info

## Testing

# Seconds first: a mistake in a parser is told before a container starts.
.PHONY: check
check: test-packages install ## all tests that need minutes (as root)
	@for stage in unit hostile packaging lxc peers; do \
		[ -n "$$(find tests/$$stage -name 'test_*.py' 2>/dev/null)" ] || continue; \
		echo "== tests/$$stage"; \
		$(PYTEST) -m '$(SHORT)' "tests/$$stage"; \
	done

.PHONY: check-long
check-long: test-packages install ## the sweeps (as root; an hour)
	@$(PYTEST) -m 'long and not box' tests

.PHONY: check-unit
check-unit: ## what needs neither root nor LXC, with whatever is installed
	@$(PYTEST) -m '$(SHORT) and not root' tests/unit

.PHONY: demo-packages peers-packages test-packages vm-packages
demo-packages peers-packages test-packages vm-packages: %-packages:
	@packaging/install $*

# Only beside their recipes: a target without one would pass without doing anything.
ifneq ($(wildcard tests/vm/vm.mk),)
check-vm vm-shell: vm-packages deb
endif
ifneq ($(wildcard tests/peers/peers.mk),)
peers: peers-packages
endif

-include tests/vm/vm.mk
-include tests/peers/peers.mk
-include benchmarks/bench.mk

## Quality

RUFF = $(CACHE)/ruff/bin/ruff
SHELL_PROGRAMS = $(shell grep -rlm1 -IE '' .ci debian packaging tests hooks benchmarks 2>/dev/null | \
	while read -r name; do head -n1 "$$name" | grep -qE '^\#!/bin/(ba)?sh' && echo "$$name"; done)
PYTHON_SOURCES = lxc_oci packaging tests bin templates $(shell grep -lE '^\#!/usr/bin/python3' hooks/*) $(wildcard benchmarks)
PAGES = $(wildcard man/*.[1-8])

# The version in PATH when it is the pinned one, else a venv: two versions format differently.
$(RUFF):
	@packaging/install lint
	@mkdir -p $(CACHE)
	@if [ "$$(ruff --version 2>/dev/null)" = "ruff $(RUFF_VERSION)" ]; then \
		mkdir -p $(CACHE)/ruff/bin && ln -sf "$$(command -v ruff)" $@; \
	else \
		$(PYTHON) -m venv $(CACHE)/ruff && $(CACHE)/ruff/bin/pip -q install ruff==$(RUFF_VERSION); \
	fi

.PHONY: lint
lint: lint-sources coverage ## all of lint-sources, and that the tests reach as much as they did

.PHONY: lint-sources
lint-sources: $(RUFF) lint-pages ## ruff, mypy, shellcheck, codespell, the pages (seconds)
	@packaging/install lint
	@$(RUFF) format --check $(PYTHON_SOURCES)
	@$(RUFF) check $(PYTHON_SOURCES)
	@/usr/bin/mypy
	@shellcheck $(SHELL_PROGRAMS) completion/*
	@codespell $(wildcard *.md) .ci bin benchmarks completion debian docs hooks lxc_oci man packaging templates tests

.PHONY: lint-pages
lint-pages:
	@packaging/lint-pages $(PAGES)

.PHONY: format
format: $(RUFF) ## let ruff rewrite what it can
	@$(RUFF) format $(PYTHON_SOURCES)
	@$(RUFF) check --fix $(PYTHON_SOURCES)

.PHONY: coverage
coverage: test-packages ## what the unit and hostile tests reach, with its floor
	@$(PYTHON) -m coverage run -m pytest -q -m '$(SHORT)' tests/unit tests/hostile
	@$(PYTHON) -m coverage report

## Releasing

.PHONY: source
source: ## the Debian source package of the last commit, in dist/source
	@packaging/install build
	@packaging/build-source dist/source

.PHONY: release
release: ## make release VERSION=1.2.3: check everything that a release needs (as root; hours), then tag
	@packaging/release '$(VERSION)'
