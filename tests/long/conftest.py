# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sweeps use the hosts and images of the end-to-end tests."""

from tests.lxc.conftest import any_host, busybox, layouts, place, registry, root_host, test_user, user_host

__all__ = ["any_host", "busybox", "layouts", "place", "registry", "root_host", "test_user", "user_host"]
