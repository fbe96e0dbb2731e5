# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a reference to its source.  What a source needs is imported when it is opened: a create from a layout
loads neither http nor ssl, and one that the store answers loads nothing of this.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from lxc_oci.errors import UsageError
from lxc_oci.image import reference as references
from lxc_oci.image.platform import Platform
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source.source import Source


class SourceOptions(NamedTuple):
    """What the command line says of how to reach an image."""

    temporary: str  # a private directory on a real file system, for copies that cannot be avoided
    authfile: str | None = None
    username: str | None = None
    password: str | None = None
    insecure: bool = False  # plain HTTP or unverified TLS for this registry
    platform: Platform | None = None

    def __repr__(self) -> str:
        """Leave the password out: this may stand in a traceback."""
        return f"SourceOptions({self._replace(password=self.password and '…')[:]})"


def parse_url(url: str) -> Reference:
    """Parse a URL that a user wrote; the error for a short name then suggests what this host means by it.

    Raises UsageError.
    """
    try:
        return references.parse(url)
    except references.ShortNameError as error:
        from lxc_oci.source import registriesconf

        try:
            found = registriesconf.load(os.environ).suggestions(error.name)
        except UsageError:
            found = []  # a pull will tell what is wrong with the files
        if not found:
            raise
        raise UsageError(error.message, f"on this host it may stand for {' or '.join(found)}") from None


def open_source(reference: Reference, options: SourceOptions, limits: Limits, warn: Callable[[str], None]) -> Source:
    """Return the source of `reference`; nothing is read before its first use.  The caller closes it."""
    if reference.transport == references.DOCKER:
        from lxc_oci.source.registry import RegistrySource

        return RegistrySource(reference, options, limits, warn)
    if reference.transport == references.OCI:
        from lxc_oci.source.layout import open_layout

        return open_layout(reference)
    if reference.transport == references.OCI_ARCHIVE:
        from lxc_oci.source.archive import open_oci_archive

        return open_oci_archive(reference, options.temporary, limits)
    if reference.transport == references.DOCKER_ARCHIVE:
        from lxc_oci.source.dockerarchive import DockerArchiveSource

        return DockerArchiveSource(reference, options.temporary, limits)
    if reference.transport == references.DIRECTORY:
        from lxc_oci.source.directory import DirectorySource

        return DirectorySource(reference)
    from lxc_oci.source.skopeo import SkopeoSource

    return SkopeoSource(reference, options, limits)
