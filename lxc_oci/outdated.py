# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which containers have another image than their URL has now.  Nothing is fetched but that answer, nothing changed."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from lxc_oci.container import provenance
from lxc_oci.container.provenance import Provenance
from lxc_oci.errors import OciError
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.limits import Limits
from lxc_oci.source.open import SourceOptions, open_source

_THREADS = 8  # requests under way at once
_ASKED = (references.DOCKER, references.OCI)  # of the others the answer costs reading the whole


class State(Enum):
    """What is known of a container's image."""

    CURRENT = "current"
    OUTDATED = "outdated"  # the URL has another now
    PINNED = "pinned"  # the URL has a digest, which always means the same
    UNKNOWN = "unknown"  # the URL is an archive's or another that is not asked
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Answer:
    """What a URL has now: a digest, or why that is not known."""

    digest: Digest | None = None
    error: str = ""


@dataclass(frozen=True)
class Finding:
    """One container."""

    directory: str
    facts: Provenance
    state: State
    available: Digest | None
    error: str = ""


def find(lxcpaths: Iterable[str], options: SourceOptions, limits: Limits, warn: Callable[[str], None]) -> list[Finding]:
    """Look at all containers of ours in `lxcpaths`; a URL that several have is asked once.  Raises OSError."""
    made = [found for lxcpath in sorted(set(lxcpaths)) for found in _containers(lxcpath, warn)]
    urls = sorted({facts.reference for _, facts in made})
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = dict(zip(urls, pool.map(lambda url: ask(url, options, limits, warn), urls), strict=True))
    return [_finding(directory, facts, answers[facts.reference]) for directory, facts in made]


def ask(url: str, options: SourceOptions, limits: Limits, warn: Callable[[str], None]) -> Answer | None:
    """Return what `url` has now, None where it is not asked: of a registry by one request without a body."""
    try:
        reference = references.parse(url)
        if reference.digest is not None or reference.transport not in _ASKED:
            return None
        source = open_source(reference, options, limits, warn)
        try:
            head = getattr(source, "head", None)
            found = head() if head is not None else None
            return Answer(found or source.root(limits)[0].digest)
        finally:
            source.close()
    except OciError as error:
        return Answer(error=error.message)
    except OSError as error:
        return Answer(error=error.strerror or str(error))


def _containers(lxcpath: str, warn: Callable[[str], None]) -> Sequence[tuple[str, Provenance]]:
    found = []
    try:
        names = sorted(os.listdir(lxcpath))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        directory = os.path.join(lxcpath, name)
        try:
            facts = provenance.read(directory) if os.path.isdir(os.path.join(directory, "oci-py")) else None
        except OciError as error:
            warn(error.message)
            continue
        if facts is not None:
            found.append((directory, facts))
    return found


def _finding(directory: str, facts: Provenance, answer: Answer | None) -> Finding:
    if answer is None:
        pinned = "@sha" in facts.reference
        return Finding(directory, facts, State.PINNED if pinned else State.UNKNOWN, None)
    if answer.digest is None:
        return Finding(directory, facts, State.UNREACHABLE, None, answer.error)
    current = answer.digest in (facts.digest, facts.index_digest)
    return Finding(directory, facts, State.CURRENT if current else State.OUTDATED, answer.digest)
