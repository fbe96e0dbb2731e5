# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of the command line: what is accepted, and what each option means.

Parsing only; __main__ decides what to do with a result, and the man page lxc-oci-py(1) explains it.
"""

import argparse
import sys
from typing import NoReturn

from lxc_oci import __version__
from lxc_oci.errors import UsageError

TEMPLATE_USAGE = "lxc-create -t oci-py -n NAME [LXC options] -- --url URL [options]"


class Parser(argparse.ArgumentParser):
    """argparse, with errors that go the way of all our errors, and no guessing at abbreviated options."""

    def __init__(self, **words: object) -> None:
        words.setdefault("allow_abbrev", False)
        words.setdefault("formatter_class", _Formatter)
        words["add_help"] = False
        super().__init__(**words)  # type: ignore[arg-type]
        self.add_argument("-h", "--help", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog.split()[0]} --help")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def template_parser() -> Parser:
    """Return the parser of the template's arguments."""
    parser = Parser(prog="lxc-oci-py", usage=TEMPLATE_USAGE, description="Create an LXC container from an OCI image.")
    image = parser.add_argument_group("image")
    image.add_argument(
        "-u", "--url", metavar="URL", help="the image: docker://HOST/NAME[:TAG|@DIGEST], oci:DIR[:TAG], …"
    )
    _add_source_options(image, "ends up in the container's config")
    image.add_argument("--no-cache", action="store_true", help="neither use nor fill the store; implies a flat rootfs")

    rootfs = parser.add_argument_group("root file system")
    rootfs.add_argument(
        "--storage",
        choices=("auto", "flat", "layered"),
        default="auto",
        help="share the image's files with other containers (layered), copy them (flat), or what works best (auto)",
    )
    rootfs.add_argument("--mount-helper", metavar="CMD", help="program that mounts the image: CMD mount, CMD umount")
    rootfs.add_argument(
        "--no-kernel-mount", action="store_true", help="unpack file systems of the image instead of mounting them"
    )
    rootfs.add_argument("--require-verity", action="store_true", help="refuse an image without dm-verity root hashes")

    process = parser.add_argument_group("process")
    process.add_argument("--entrypoint", metavar="CMD", help="replace the image's entrypoint and drop its command")
    process.add_argument("--cmd", metavar="ARGS", help="replace the image's command")
    process.add_argument("-e", "--env", metavar="K=V", action="append", default=[], help="set a variable")
    process.add_argument("--env-file", metavar="FILE", action="append", default=[], help="set variables from a file")
    process.add_argument("--user", metavar="USER[:GROUP]", help="run as this user of the image")
    process.add_argument("--workdir", metavar="DIR", help="run in this directory")
    process.add_argument("--hostname", metavar="NAME", help="the container's host name (default: its name)")

    data = parser.add_argument_group("volumes and network")
    data.add_argument(
        "--volume", metavar="HOST:CT[:ro]", action="append", default=[], help="mount a directory or file of the host"
    )
    data.add_argument("--tmpfs", metavar="CT[:size=N]", action="append", default=[], help="mount a tmpfs")
    data.add_argument("--dhcp", action="store_true", help="get an address by DHCP from outside the container")
    data.add_argument("--no-dhcp", action="store_true", help="never do so")
    data.add_argument(
        "--address", metavar="CIDR", action="append", default=[], help="a fixed address for the first interface"
    )
    data.add_argument("--gateway", metavar="IP", action="append", default=[], help="its default route")
    data.add_argument("--dns", metavar="IP", action="append", default=[], help="a name server for resolv.conf")
    _add_common_options(parser)

    lxc = parser.add_argument_group("given by lxc-create")
    lxc.add_argument("-n", "--name", metavar="NAME")
    lxc.add_argument("-p", "--path", metavar="DIR", help="the container's directory")
    lxc.add_argument("--rootfs", metavar="DIR")
    lxc.add_argument("--mapped-uid", metavar="UID", type=int)
    lxc.add_argument("--mapped-gid", metavar="GID", type=int)
    return parser


def command_parser() -> Parser:
    """Return the parser of the command lxc-oci-py."""
    parser = Parser(prog="lxc-oci-py", description="Work with OCI images and the LXC containers made of them.")
    parser.add_argument("--version", action="version", version=f"lxc-oci-py {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    inspect = verbs.add_parser("inspect", help="show an image, or what a container was made of")
    inspect.add_argument("subject", metavar="URL|NAME", help="an image's URL, or a container's name")
    _add_lxcpath(inspect)
    _add_source_options(inspect)
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--raw", action="store_true", help="print the manifest as it came (of an image)")

    pull = verbs.add_parser("pull", help="bring an image into the store")
    pull.add_argument("url", metavar="URL")
    _add_source_options(pull)
    pull.add_argument("--json", action="store_true", help="print JSON, progress included")

    listing = verbs.add_parser("list", help="show the images in the store and the containers that use them")
    listing.add_argument("--json", action="store_true", help="print JSON")

    prune = verbs.add_parser("prune", help="remove what no container uses")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.add_argument("--force", action="store_true", help="also remove what was in use during the last day")
    prune.add_argument("--json", action="store_true", help="print JSON")

    verify = verbs.add_parser("verify", help="read everything in the store and compare it with its digests")
    verify.add_argument("--json", action="store_true", help="print JSON")

    update = verbs.add_parser("update", help="give a container the image that its URL has now")
    update.add_argument("name", metavar="NAME")
    update.add_argument("-u", "--url", metavar="URL", help="another image than the recorded one")
    update.add_argument("--dry-run", action="store_true", help="only show what the images say otherwise")
    update.add_argument("--reset", action="store_true", help="drop what the container wrote outside of volumes")
    update.add_argument(
        "--require-verity",
        action=argparse.BooleanOptionalAction,
        help="refuse an image without dm-verity root hashes from now on (default: as before)",
    )
    _add_lxcpath(update)
    _add_source_options(update)
    update.add_argument("--json", action="store_true", help="print JSON")

    rollback = verbs.add_parser("rollback", help="give a container the image before its last update again")
    rollback.add_argument("name", metavar="NAME")
    _add_lxcpath(rollback)
    rollback.add_argument("--json", action="store_true", help="print JSON")

    outdated = verbs.add_parser("outdated", help="show which containers' URLs have another image now")
    _add_lxcpath(outdated)
    _add_source_options(outdated)
    outdated.add_argument("--json", action="store_true", help="print JSON")

    commit = verbs.add_parser("commit", help="write a container's image and what it wrote as a new image")
    commit.add_argument("name", metavar="NAME")
    commit.add_argument("destination", metavar="DEST", help="docker://HOST/NAME[:TAG], oci:DIR[:TAG], oci-archive:FILE")
    commit.add_argument("--entrypoint", metavar="CMD", help="the new image's entrypoint")
    commit.add_argument("--cmd", metavar="ARGS", help="its command")
    commit.add_argument("-e", "--env", metavar="K=V", action="append", default=[], help="set a variable in it")
    commit.add_argument("--user", metavar="USER[:GROUP]", help="its user")
    commit.add_argument("--workdir", metavar="DIR", help="its working directory")
    _add_lxcpath(commit)
    _add_source_options(commit)

    convert = verbs.add_parser("convert", help="let a container share its image, or have all files for itself")
    convert.add_argument("name", metavar="NAME")
    convert.add_argument("--storage", choices=("flat", "layered"), required=True, help="the form that it gets")
    _add_lxcpath(convert)
    _add_source_options(convert)

    logs = verbs.add_parser("logs", help="show what a container's program wrote to its console")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    _add_lxcpath(logs)

    mount = verbs.add_parser("mount", help="mount an image of an OCI layout by the mount-helper contract")
    mount.add_argument("--persist", metavar="UPPER", help="make it writable; the writes go to this directory")
    mount.add_argument("--kernel", action="store_true", help="accepted for oci-py-mount")
    mount.add_argument("--no-kernel-mount", action="store_true", help="accepted for oci-py-mount")
    mount.add_argument("--require-verity", action="store_true", help="accepted for oci-py-mount")
    mount.add_argument("image", metavar="OCI_DIR:NAME")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT")

    for verb in (inspect, pull, listing, prune, verify, mount, update, rollback, outdated, commit, convert, logs):
        _add_common_options(verb)
    return parser


def _add_source_options(
    group: argparse._ActionsContainer, password_fate: str = "other users can see it while the command runs"
) -> None:
    group.add_argument("--authfile", metavar="FILE", help="registry logins, as written by podman login")
    group.add_argument("--username", metavar="USER", help="user at the registry")
    group.add_argument("--password", metavar="PASSWORD", help=f"its password; {password_fate}")
    group.add_argument("--password-file", metavar="FILE", help="read the password from a file")
    group.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    group.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="choose from an image for several platforms")
    group.add_argument("--insecure", action="store_true", help="allow plain HTTP and unverified TLS for this registry")


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group("common")
    common.add_argument("--store", metavar="DIR", help="where images are kept (also LXC_OCI_PY_STORE)")
    common.add_argument("-v", "--verbose", action="store_true", help="say more")
    common.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")


def _add_lxcpath(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-P", "--lxcpath", metavar="DIR", help="where the containers are (default: as lxc-ls)")


def read_password(arguments: argparse.Namespace) -> str | None:
    """Return the password that the arguments give, lead to, or None.  Raises UsageError."""
    given = [arguments.password is not None, arguments.password_file is not None, arguments.password_stdin]
    if sum(given) > 1:
        raise UsageError("give only one of --password, --password-file and --password-stdin")
    if any(given) and not arguments.username:
        raise UsageError("a password was given without a user", "give --username USER")
    if arguments.password_file is not None:
        try:
            with open(arguments.password_file, encoding="utf-8") as file:
                return file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the password from {arguments.password_file}: {error}") from error
    if arguments.password_stdin:
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"cannot read the password from standard input: {error}") from error
        if not line:
            raise UsageError("standard input has no password", "lxc-create -q closes it; use --password-file")
        return line.rstrip("\r\n")
    password: str | None = arguments.password
    if arguments.username and password is None:
        raise UsageError("--username needs a password", "give --password-file FILE or --password-stdin")
    return password
