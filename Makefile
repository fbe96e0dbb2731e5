# SPDX-License-Identifier: LGPL-2.1-or-later
# make demo    the package built, installed, and a container run (as root, Debian 12 or 13)
# make check   all tests that need minutes (as root); the rest is listed by `make help`

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON = /usr/bin/python3
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' lxc_oci/__init__.py)
CACHE = .cache
RUFF_VERSION = 0.17.6
SOURCES := $(shell find $(wildcard COPYING MANIFEST.in NEWS.md README.md bin completion debian hooks lxc_oci man \
	packaging setup.cfg setup.py templates) -type f -not -name '*.pyc')

# A run as root must leave nothing in the checkout.
export PYTHONDONTWRITEBYTECODE = 1
export LC_ALL = C.UTF-8

PYTEST = $(PYTHON) -m pytest -q
SHORT = not box and not long

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

## Building

.PHONY: deb
deb: dist/lxc-oci-py_$(VERSION)-1_all.deb ## dist/*.deb, what `apt install ./dist/*.deb` needs

dist/lxc-oci-py_$(VERSION)-1_all.deb: $(SOURCES)
	@packaging/install build
	@packaging/build-deb dist
	@packaging/wheel2deb.py dist

.PHONY: stdeb
stdeb: ## the same package, made by stdeb from setup.cfg alone, in dist/stdeb
	@packaging/install build
	@packaging/install stdeb
	@packaging/build-deb dist/stdeb stdeb

.PHONY: install
install: deb ## build the package and install it (as root)
	@packaging/install package

.PHONY: demo
demo: install ## make a container from an image made on the spot, and run it (as root)
	@packaging/demo

.PHONY: clean
clean: ## remove what the targets above made
	rm -rf dist $(CACHE) *.egg-info

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

.PHONY: test-packages
test-packages:
	@packaging/install test

-include tests/vm/vm.mk
-include tests/peers/peers.mk
-include benchmarks/bench.mk
