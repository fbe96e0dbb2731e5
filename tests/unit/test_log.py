# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.log"""

import io

import pytest

from lxc_oci.errors import OciError
from lxc_oci.log import Level, Log, escape


def logged(level: Level = Level.NORMAL) -> tuple[Log, io.StringIO]:
    stream = io.StringIO()
    return Log(level, stream), stream


def test_an_error_and_its_hint() -> None:
    log, stream = logged()
    log.error(OciError("it failed", "do that"))
    log.error(OciError("it failed again"))
    assert stream.getvalue().splitlines() == [
        "lxc-oci-py: error: it failed",
        "lxc-oci-py: hint: do that",
        "lxc-oci-py: error: it failed again",
    ]


def test_a_warning_comes_once() -> None:
    log, stream = logged(Level.QUIET)
    for _ in range(3):
        log.warn("careful")
    log.warn("something else")
    assert stream.getvalue() == "lxc-oci-py: warning: careful\nlxc-oci-py: warning: something else\n"


@pytest.mark.parametrize(
    ("level", "said"), [(Level.QUIET, []), (Level.NORMAL, ["done"]), (Level.VERBOSE, ["done", "because"])]
)
def test_levels(level: Level, said: list[str]) -> None:
    log, stream = logged(level)
    log.info("done")
    log.detail("because")
    assert stream.getvalue() == "".join(f"lxc-oci-py: {text}\n" for text in said)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Grüße 日本語", "plain, Grüße 日本語"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nlxc-oci-py: error: forged", "a\\nlxc-oci-py: error: forged"),
        ("\r\t\0\x7f", "\\r\\t\\x00\\x7f"),
        ("\udcff", "\\xff"),
        ("\u202e\u2028\x85", "\\xe2\\x80\\xae\\xe2\\x80\\xa8\\xc2\\x85"),
    ],
)
def test_nothing_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert escape(text) == shown
    assert escape(text).isprintable()


def test_a_message_is_one_line() -> None:
    log, stream = logged()
    log.error(OciError("two\nlines", "and\x1b[31m more\r"))
    assert stream.getvalue() == "lxc-oci-py: error: two\\nlines\nlxc-oci-py: hint: and\\x1b[31m more\\r\n"


def test_a_closed_stream_loses_messages_only() -> None:
    log, stream = logged()
    stream.close()
    log.error(OciError("lost"))


def test_a_full_stream_loses_messages_only() -> None:
    with io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True) as full:
        Log(stream=full).error(OciError("lost"))
