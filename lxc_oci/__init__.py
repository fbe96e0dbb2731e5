# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc-oci-py: run OCI images as LXC containers."""

__version__ = "0.1.0"
