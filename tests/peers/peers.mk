# SPDX-License-Identifier: LGPL-2.1-or-later
# The real mount helpers, built into the cache; `make peers PEERS=puzzlefs` builds one.

PEERS = puzzlefs atomfs

.PHONY: peers
peers: ## build the real puzzlefs and atomfs that tests/peers compares with
	$(PYTHON) tests/peers/build.py $(PEERS)
