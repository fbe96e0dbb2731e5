# SPDX-License-Identifier: LGPL-2.1-or-later
# The figures of the README: ours and the peers in pairs, on a quiet file system in memory.

.PHONY: bench
bench: bench-packages install ## measure against upstream's template, umoci and podman (as root; ten minutes)
	@$(PYTHON) benchmarks/bench.py

.PHONY: bench-plot
bench-plot: bench-packages install ## draw docs/create-time.svg (as root; ten minutes)
	@$(PYTHON) benchmarks/plot.py

.PHONY: bench-packages
bench-packages:
	@packaging/install test
	@packaging/install bench
