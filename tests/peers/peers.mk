# SPDX-License-Identifier: LGPL-2.1-or-later
# The real mount helpers, built into the cache; `make peers PEERS='puzzlefs atomfs'` builds atomfs too, where the
# module proxy serves it.

PEERS = puzzlefs

.PHONY: peers
peers: ## build the real puzzlefs that tests/peers compares with
	$(PYTHON) tests/peers/build.py $(PEERS)
