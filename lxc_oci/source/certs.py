# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom TLS trusts: the system's certificates and those of containers-certs.d(5)."""

import os
import ssl
import threading
from collections.abc import Mapping

from lxc_oci.errors import UsageError
from lxc_oci.source import hostfiles

_OWN_DIRECTORY = ".config/containers/certs.d"  # in the home directory, whatever XDG_CONFIG_HOME says


class Trust:
    """TLS contexts by host, each made once."""

    def __init__(self, environment: Mapping[str, str], directories: tuple[str, ...] | None = None) -> None:
        if directories is None:
            directories = (os.path.join(hostfiles.home(environment), _OWN_DIRECTORY), *hostfiles.CERTIFICATES)
        self._directories = directories
        self._contexts: dict[tuple[str, str, bool], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, authority: str, registry: str, insecure: bool) -> ssl.SSLContext:
        """Return the context for `authority` (`host[:port]`), contacted on behalf of `registry`.

        Both are written as their directories in certs.d are called.
        A host that a registry sends us to is verified with the registry's CAs too, but never gets its client
        certificate.  `insecure` accepts any certificate.  Raises UsageError for a directory that cannot be used.
        """
        key = (authority, registry, insecure)
        with self._lock:
            found = self._contexts.get(key)
            if found is None:
                found = self._contexts[key] = self._make(authority, registry, insecure)
        return found

    def _make(self, authority: str, registry: str, insecure: bool) -> ssl.SSLContext:
        # Not create_default_context: from Python 3.13 it refuses CAs without key identifiers, which Go's programs,
        # and so today's private registries, do not mind.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.hostname_checks_common_name = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a server's own certificate may be the trust anchor
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_default_certs()
        for host in dict.fromkeys((authority, registry)):
            self._load(context, host, client=host == authority)
        return context

    def _load(self, context: ssl.SSLContext, host: str, client: bool) -> None:
        """Read the first of the directories that has one for `host`."""
        for parent in self._directories:
            directory = os.path.join(parent, host)
            try:
                names = sorted(os.listdir(directory))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:  # another user's, as seen from a user namespace
                continue
            except OSError as error:
                raise UsageError(f"cannot read {directory}: {error.strerror}") from error
            for name in names:
                self._load_file(context, directory, name, names, client)
            return

    def _load_file(self, context: ssl.SSLContext, directory: str, name: str, names: list[str], client: bool) -> None:
        path = os.path.join(directory, name)
        stem, extension = os.path.splitext(name)
        try:
            if extension == ".crt":
                context.load_verify_locations(path)
            elif extension == ".cert":
                if f"{stem}.key" not in names:
                    raise UsageError(
                        f"{path} has no {stem}.key beside it", "a CA's certificate has the extension .crt there"
                    )
                if client:
                    context.load_cert_chain(path, os.path.join(directory, f"{stem}.key"))
            elif extension == ".key" and f"{stem}.cert" not in names:
                raise UsageError(f"{path} has no {stem}.cert beside it")
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"cannot use {path}: {error.strerror or error}") from error
