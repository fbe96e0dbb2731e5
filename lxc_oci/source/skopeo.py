# SPDX-License-Identifier: LGPL-2.1-or-later
"""Transports that only skopeo can read (docker-daemon, containers-storage, …): copied by it into a directory of
ours, then read like any `dir:`.

A directory, not a layout: skopeo then copies manifest and layers as they are instead of compressing them anew.
The host's policy.json and registries.conf are skopeo's to obey.
"""

import os
import re
import shutil
import tempfile
import threading

from lxc_oci.errors import NoSpaceError, UnavailableError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.reference import Reference
from lxc_oci.kernel import run
from lxc_oci.limits import Limits
from lxc_oci.source.directory import DirectorySource
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.source import RawReader

# What of the caller's environment says where his storage, his daemon and his logins are; nothing else is passed on.
_ENVIRONMENT = (
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "REGISTRY_AUTH_FILE",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
)
_MESSAGE = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')


class SkopeoSource:
    """The image of `reference`, copied at the first need and removed when closed."""

    def __init__(self, reference: Reference, options: SourceOptions, limits: Limits) -> None:
        if options.username is not None:
            raise UsageError(
                f"{reference.transport}: takes no --username", "log in by the tool that the image comes from"
            )
        self._reference = reference
        self._options = options
        self._limits = limits
        self._lock = threading.Lock()
        self._directory: str | None = None
        self._copy: DirectorySource | None = None

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """See Source.  Raises UnsupportedError without skopeo, and UnavailableError with its message."""
        return self._copied().root(limits)

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """See Source."""
        return self._copied().open(descriptor, offset)

    def origin(self, descriptor: Descriptor) -> str:
        """See Source."""
        return self._reference.text

    def close(self) -> None:
        """See Source."""
        with self._lock:
            directory, self._directory = self._directory, None
            self._copy = None
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _copied(self) -> DirectorySource:
        with self._lock:
            if self._copy is None:
                skopeo = run.require("skopeo", "skopeo")
                self._directory = tempfile.mkdtemp(prefix="skopeo-", dir=self._options.temporary)
                try:
                    self._run(skopeo, self._directory)
                except BaseException:
                    shutil.rmtree(self._directory, ignore_errors=True)
                    self._directory = None
                    raise
                self._copy = DirectorySource(
                    Reference(references.DIRECTORY, path=os.path.join(self._directory, "image"))
                )
            return self._copy

    def _run(self, skopeo: str, directory: str) -> None:
        options, text = self._options, self._reference.text
        argv = [skopeo]
        if options.platform is not None:
            argv += ["--override-os", options.platform.os, "--override-arch", options.platform.architecture]
            if options.platform.variant:
                argv += ["--override-variant", options.platform.variant]
        # In the directory it also keeps its temporary files, which are as large as the image.
        argv += ["--tmpdir", directory, "copy", "--quiet"]
        if options.authfile is not None:
            argv += ["--src-authfile", options.authfile]
        if options.insecure:
            argv += ["--src-tls-verify=false"]
        result = run.run(
            [*argv, "--", text, f"dir:{directory}/image"],
            timeout=self._limits.transfer_seconds,
            environment={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            cwd=_working_directory(),
        )
        if result.status != 0:
            message = _message(result)
            if "no space left on device" in message:
                raise NoSpaceError(f"skopeo cannot copy {text}: {message}", "free some space, then try again")
            raise UnavailableError(f"skopeo cannot copy {text}: {message}", f"try it by hand: skopeo inspect {text}")


def _working_directory() -> str:
    """Where relative paths of sif: and tarball: start."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _message(result: run.Result) -> str:
    """What skopeo says at its end, without the frame of its log."""
    found = _MESSAGE.findall(result.errors.decode("utf-8", "replace"))
    return re.sub(r'\\(["\\])', r"\1", found[-1]) if found else result.message()
