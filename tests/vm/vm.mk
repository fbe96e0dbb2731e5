# SPDX-License-Identifier: LGPL-2.1-or-later
# Whole Debian machines in QEMU; tests/vm/README.md.

RELEASE = trixie

# make check-vm CHECK_VM='trixie -k power' narrows it down.
.PHONY: check-vm
check-vm: deb ## the end-to-end suite in stock Debian 12 and 13 machines (QEMU; as root)
	@$(PYTHON) -m tests.vm.run $(CHECK_VM)

.PHONY: check-vm-long
check-vm-long: vm-packages deb ## 30 power cuts in creates, 15 in each of those machines
	@$(PYTHON) -m tests.vm.run $(CHECK_VM) -m long --guest

# make check-autopkgtest AUTOPKGTEST='trixie -- --test-name=life'
.PHONY: check-autopkgtest
check-autopkgtest: vm-packages deb ## Debian's autopkgtest, with those machines as its testbeds
	@$(PYTHON) -m tests.vm.autopkgtest $(AUTOPKGTEST)

.PHONY: vm-shell
vm-shell: deb ## a root shell in a throw-away machine with our package: make vm-shell RELEASE=trixie
	@$(PYTHON) -m tests.vm.shell $(RELEASE)
