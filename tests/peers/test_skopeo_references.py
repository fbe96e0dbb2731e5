# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which references parse: ours and skopeo's verdicts, side by side.  A difference stands here with its reason."""

import subprocess
from pathlib import Path

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.image.reference import parse
from tests.support import need

SUM = "sha256:" + "0123456789abcdef" * 4

SAME = [
    "docker://nginx",
    "docker://nginx:1.27",
    "docker://docker.io/nginx",
    "docker://index.docker.io/library/nginx",
    "docker://a/b",
    "docker://a/b/c/d:e",
    "docker://localhost/a",
    "docker://localhost:5000/a",
    "docker://10.0.0.1:5000/a",
    "docker://Quay.IO/a",
    "docker://quay.io/a__b/c.d/e--f/g_h",
    f"docker://nginx@{SUM}",
    f"docker://quay.io/a/b@{SUM}",
    "docker://nginx:V1_2.3-4",
    "docker://nginx:_x",
    "docker://nginx:" + "a" * 128,
    "docker://nginx:" + "a" * 129,
    "docker://nginx:",
    "docker://nginx:-x",
    "docker://nginx:.x",
    "docker://nginx:a:b",
    "docker://nginx@",
    "docker://nginx@sha256:abc",
    f"docker://nginx@{SUM}@{SUM}",
    "docker://",
    "docker:///a",
    "docker:nginx",
    "docker:/nginx",
    "docker://Nginx",
    "docker://a.b/C",
    "docker://a/../b",
    "docker://a/./b",
    "docker://a//b",
    "docker://a/",
    "docker://-a/b",
    "docker://a.b/-c",
    "docker://a.b/c-",
    "docker://a.b/c___d",
    "docker://a.b/c._d",
    "docker://a.-b.c/d",
    "docker://a b",
    "docker://a?b",
    "docker://user:pass@quay.io/a",
    "docker://" + "0123456789abcdef" * 4,
    "docker://a.b/" + "c" * 251,
    "docker://a.b/" + "c" * 300,
    "docker://a.b/c@sha512:" + "0" * 64,
    "docker-archive:/tmp/x:",
    "docker://https://a/b",
    "docker://nginx\n",
    "docker://ngіnx",
    "oci:/tmp",
    "oci:/tmp:a",
    "oci:/tmp:a/b:c",
    "oci:/tmp:a.b_c-d:e@f+g--h",
    "oci:/tmp:a__b",
    "oci:/tmp:a..b",
    "oci:/tmp:-a",
    "oci:/tmp:a-",
    "oci:/tmp:a//b",
    "oci:/tmp:/a",
    "oci:/tmp:a b",
    "oci:/tmp:a/../b",
    "oci-archive:/tmp/x",
    "oci-archive:/tmp/x:a",
    "oci-archive:/tmp/x:-a",
    "docker-archive:/tmp/x",
    "docker-archive:/tmp/x:nginx",
    "docker-archive:/tmp/x:nginx:1",
    "docker-archive:/tmp/x:localhost:5000/a:b",
    "docker-archive:/tmp/x:@0",
    "docker-archive:/tmp/x:@12",
    "docker-archive:/tmp/x:@-1",
    "docker-archive:/tmp/x:@a",
    "docker-archive:/tmp/x:Nginx",
    f"docker-archive:/tmp/x:nginx@{SUM}",
    "dir:/tmp",
    "dir:/tmp/a:b",
    "docker-daemon:nginx:1",
    "nginx",
    "nginx:1",
    "library/nginx",
    "quay.io/a/b",
    "/tmp",
    "unknown:/tmp",
    "DOCKER://nginx",
    "https://quay.io/a",
    "",
]
# Reference, whether we take it, and why that is not skopeo's verdict.
DIFFERENT = [
    (f"docker://nginx:1@{SUM}", True, "the tag is a note, the digest decides"),
    ("docker://[::1]:5000/a", True, "newer versions of the reference grammar have IPv6 addresses"),
    ("docker://a:99999/b", False, "no such port: skopeo fails when it connects"),
    ("docker://NGINX/a", False, "newer versions take a word with capitals for a host; a mistyped name is likelier"),
    ("oci:/tmp:", False, "a selector that selects nothing"),
    ("oci:/tmp:@0", True, "newer skopeo has it too"),
    ("oci:/tmp/\x1b[2J", False, "what is recorded and shown has no control characters"),
    ("dir:/tmp/a\nb", False, "what is recorded and shown has no control characters"),
    ("dir:", False, "no path"),
]


def skopeo_takes(url: str) -> bool:
    """Ask skopeo: the destination is wrong for certain, so that nothing is ever copied and no registry asked."""
    program = need.program("skopeo")
    found = subprocess.run(
        [program, "--insecure-policy", "copy", "--", url, "no-transport"], capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    if "Invalid destination name" in found.stderr:
        return True
    assert "Invalid source name" in found.stderr, found.stderr
    return False


def we_take(url: str) -> bool:
    try:
        parse(url, lambda path: False)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("url", SAME)
def test_the_same_verdict(url: str) -> None:
    assert we_take(url) == skopeo_takes(url)


@pytest.mark.parametrize(("url", "taken", "reason"), DIFFERENT)
def test_another_verdict_with_a_reason(url: str, taken: bool, reason: str) -> None:
    assert we_take(url) == taken, reason


def test_a_digest_behind_a_path_is_no_part_of_the_path(tmp_path: Path) -> None:
    """skopeo 1.9 reads `oci:DIR@sha256:HEX` as the directory `DIR@sha256`."""
    assert parse(f"oci:{tmp_path}@{SUM}").path == str(tmp_path)
