# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every target, for a moment: its seeds, and what hypothesis makes of them."""

from collections.abc import Callable

import pytest

from lxc_oci.errors import OciError
from tests.hostile.fuzz.targets import TARGETS, Target

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = 300
# What means something to one format or another.
WORDS = (
    b"\0", b"\n", b"\r", b"=", b'"', b"\\", b"..", b"/", b"\x1b", b"\x7f", b"\x80", b"\xff" * 8, b"9" * 20, b"{}", b"[",
    b"]", b"null", b"-1", b"\xc2\x9b", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", bytes(512),
)  # fmt: skip
Edit = tuple[float, int, bytes]
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.one_of(st.sampled_from(WORDS), st.binary(max_size=4))
    ),
    min_size=1,
    max_size=6,
)


def changed(seed: bytes, steps: list[Edit]) -> bytes:
    """Apply edits: replace, insert, cut out, repeat."""
    data = bytearray(seed)
    for place, kind, piece in steps:
        at = int(place * (len(data) + 1))
        if kind == 0:
            data[at : at + len(piece)] = piece
        elif kind == 1:
            data[at:at] = piece
        elif kind == 2:
            del data[at : at + 1 + 16 * len(piece)]
        else:
            data[at:at] = data[at : at + 64]
    return bytes(data)


def tried_to(target: Target, data: bytes) -> bool:
    """Run a target; tell whether it took the bytes."""
    try:
        target.run(data)
    except OciError as error:
        assert error.message
        return False
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_what_they_should_be(name: str) -> None:
    assert any(tried_to(TARGETS[name], seed) for seed in TARGETS[name].seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_do_anything_but_be_read_or_refused(name: str, tried: Callable[[int], None]) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
    @given(st.sampled_from(target.seeds), edits)
    def attempt(seed: bytes, steps: list[Edit]) -> None:
        tried_to(target, fixed(changed(seed, steps)) if name == "tar" else changed(seed, steps))

    attempt()
    tried(EXAMPLES)


def fixed(data: bytes) -> bytes:
    """Make the checksums of headers right again, so that what was changed in them is looked at."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        header = blocks[start : start + 512]
        if header[257:262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
    return bytes(blocks)


def test_the_fuzzer_finds_what_is_wrong() -> None:
    """A reader that forgets to check one length."""

    def careless(data: bytes) -> None:
        if data[:4] != b"SEED":
            raise OciError("not a seed")
        assert data[data[4]] >= 0

    @settings(max_examples=EXAMPLES, derandomize=True)
    @given(edits)
    def attempt(steps: list[Edit]) -> None:
        tried_to(Target(careless, ()), changed(b"SEED\x05\0", steps))

    with pytest.raises(IndexError):
        attempt()
