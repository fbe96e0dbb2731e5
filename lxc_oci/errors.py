# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one family of errors, each with a message, a hint and an exit status.

Library code raises; only the doors (the command and the template) print and exit.  What is
raised here is a refusal or a failure that a user can act on; anything else
that escapes is a bug of ours.
"""


class OciError(Exception):
    """What failed, on what (`message`), and what to do about it (`hint`)."""

    status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OciError):
    """The command line, or a file that the user wrote, is wrong."""

    status = 2


class UnavailableError(OciError):
    """The network, a registry or a helper did not answer; the same call may work later."""

    status = 3


class AccessError(OciError):
    """Not authorised, or not found: credentials, name or tag are wrong."""

    status = 4


class RefusedError(OciError):
    """The image, the registry's answer or a policy forbids to go on."""

    status = 5


class NoSpaceError(OciError):
    """The file system is full, over quota, or out of inodes."""

    status = 6


class UnsupportedError(OciError):
    """This host, or this program, cannot do what was asked for."""

    status = 7
