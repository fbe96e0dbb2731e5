# SPDX-License-Identifier: LGPL-2.1-or-later
"""The story of an update: another image below a container's own writes, and of a rollback: the one before again.

Read `update` from top to bottom.  Everything that is new lies in a generation of its own (container.generation)
before the container's configuration, by one rename, names it; whatever stops us leaves the old image or the new.
"""

from dataclasses import dataclass

from lxc_oci import changes, existing
from lxc_oci.acquire import Acquired, acquired, now
from lxc_oci.container import generation, provenance
from lxc_oci.container.provenance import Provenance
from lxc_oci.errors import AccessError, RefusedError, UsageError
from lxc_oci.existing import Container, base_of, image_of, load, locked
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import base as bases
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.base import Base
from lxc_oci.rootfs.prepare import check_verity
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import prune
from lxc_oci.store.home import Store
from lxc_oci.switch import Report, Show, new_generation, switch


@dataclass(frozen=True)
class Request:
    """What the user asks of an update."""

    directory: str  # the container's
    reference: Reference | None  # another image than the one recorded
    source: SourceOptions
    dry_run: bool = False
    reset: bool = False
    require_verity: bool | None = None  # None: as before


def update(request: Request, store: Store, limits: Limits, log: Log, progress: Progress, show: Show) -> bool:
    """Put the image that the reference has now below the container's writes; return False where it has it already.

    Raises OciError and OSError; the container is then as it was.
    """
    overlay.private_namespace()
    with locked(request.directory, stopped=not request.dry_run), store.in_use():
        container = load(request.directory, store)
        reference = request.reference or references.parse(container.facts.reference)
        options, wanted = _wanted(request, container.facts)
        with acquired(reference, options, store, limits, log.warn) as found:
            if wanted.require_verity:
                _check_verity(found)
            old = image_of(container, container.number, limits)
            if found.image.digest == old.digest and not request.reset:
                if not request.dry_run:
                    _note(container, wanted, reference, found.image)
                return False
            report = Report(
                container.directory,
                container.facts.reference,
                reference.text,
                changes.compare(old, found.image),
                None,
                prune.disk_usage(container.upper, {}) if request.reset else None,
            )
            if request.dry_run:
                show(report)
                return True
            with new_generation(container) as number:
                base = bases.renew(
                    container.base,
                    container.directory,
                    generation.directory(number),
                    found,
                    store,
                    kernel_mount=wanted.kernel_mount,
                    require_verity=wanted.require_verity,
                    limits=limits,
                    log=log,
                    progress=progress,
                )
                facts = _facts(container, wanted, found.image, reference, base, store)
                switch(container, number, found.image, base, facts, report, store, limits, log, show)
            log.info(f"{container.name} has {reference} ({found.image.digest}) now")
            return True


def rollback(directory: str, store: Store, limits: Limits, log: Log, show: Show) -> None:
    """Put the image before the present one below the container's writes again.

    It becomes a new generation that has nothing in common with those before it; repeated, this goes further back.
    Raises UsageError when there is none, OciError and OSError; the container is then as it was.
    """
    overlay.private_namespace()
    with locked(directory), store.in_use():
        container = load(directory, store)
        target = container.facts.previous
        facts = provenance.read(directory, target) if target else None
        if facts is None:
            raise UsageError(f"{container.name} has no image to go back to", "only an update leaves one")
        base = base_of(container.directory, target, facts, store)
        gone = bases.missing(base, store)
        if gone:
            raise AccessError(
                f"the store does not have {gone} of the image before any more",
                f"fetch it again: lxc-oci-py update {container.name} --url {existing.same_image(facts).text}",
            )
        image = image_of(container, target, limits)
        old = image_of(container, container.number, limits)
        report = Report(directory, container.facts.reference, facts.reference, changes.compare(old, image), None, None)
        with new_generation(container) as number:
            base = bases.again(base, directory, generation.directory(number))
            facts = facts._replace(identity=provenance.identity(directory), created=now())
            switch(container, number, image, base, facts, report, store, limits, log, show)
        log.info(f"{container.name} has {facts.reference} ({facts.digest}) again")


def _wanted(request: Request, facts: Provenance) -> tuple[SourceOptions, Provenance]:
    """Return how the image is asked for, and `facts` with what the container wants of its images from now on."""
    options = request.source
    if options.platform is not None:
        facts = facts._replace(wanted_platform=str(options.platform))
    else:
        options = options._replace(platform=existing.platform_of(facts))
    if request.require_verity is not None:
        facts = facts._replace(require_verity=request.require_verity)
    return options, facts


def _check_verity(found: Acquired) -> None:
    try:
        check_verity(found)
    except RefusedError as error:
        raise RefusedError(error.message, "--no-require-verity takes such an image all the same") from None


def _facts(
    container: Container, wanted: Provenance, image: Image, reference: Reference, base: Base, store: Store
) -> Provenance:
    return wanted._replace(
        identity=provenance.identity(container.directory),
        reference=reference.text,
        digest=image.digest,
        index_digest=image.index_digest,
        platform=str(image.config.platform),
        form=base.form.value,
        uses=base.uses,
        store=store.path,
        created=now(),
        previous=container.number,
    )


def _note(container: Container, wanted: Provenance, reference: Reference, image: Image) -> None:
    """Keep by which name the container has its image, and what it wants, where nothing else has changed."""
    facts = wanted._replace(reference=reference.text, index_digest=image.index_digest)
    if facts != container.facts:
        facts = facts._replace(identity=provenance.identity(container.directory))
        provenance.write(container.directory, facts, image, container.number)
