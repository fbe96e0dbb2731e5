# SPDX-License-Identifier: LGPL-2.1-or-later
"""The door that pybuild and stdeb insist on; everything is in setup.cfg."""

from setuptools import setup

setup()
