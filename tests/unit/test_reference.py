# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.image.reference"""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci.errors import UsageError
from lxc_oci.image.digest import Digest
from lxc_oci.image.reference import FOREIGN, Reference, parse

SUM = "sha256:" + "0123456789abcdef" * 4


def nothing(path: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("docker://nginx", "docker://docker.io/library/nginx:latest"),
        ("docker://nginx:1.27", "docker://docker.io/library/nginx:1.27"),
        ("docker://docker.io/nginx", "docker://docker.io/library/nginx:latest"),
        ("docker://index.docker.io/a/b:c", "docker://docker.io/a/b:c"),
        ("docker://a/b", "docker://docker.io/a/b:latest"),
        ("docker://localhost/b", "docker://localhost/b:latest"),
        ("docker://localhost:5000/b", "docker://localhost:5000/b:latest"),
        ("docker://quay.io/a/b/c:v1_2.3-4", "docker://quay.io/a/b/c:v1_2.3-4"),
        ("docker://Quay.IO/a", "docker://Quay.IO/a:latest"),
        ("docker://[::1]:5000/a", "docker://[::1]:5000/a:latest"),
        ("docker://10.0.0.1/a__b/c.d/e--f", "docker://10.0.0.1/a__b/c.d/e--f:latest"),
        (f"docker://nginx@{SUM}", f"docker://docker.io/library/nginx@{SUM}"),
        (f"docker://nginx:1@{SUM}", f"docker://docker.io/library/nginx:1@{SUM}"),
        ("oci:/a", "oci:/a"),
        ("oci:/a:b", "oci:/a:b"),
        ("oci:/a:b/c:d", "oci:/a:b/c:d"),
        ("oci:/a:@3", "oci:/a:@3"),
        (f"oci:/a@{SUM}", f"oci:/a@{SUM}"),
        (f"oci:/a:b@{SUM}", f"oci:/a:b@{SUM}"),
        ("oci-archive:/a.tar:b", "oci-archive:/a.tar:b"),
        ("docker-archive:/a.tar", "docker-archive:/a.tar"),
        ("docker-archive:/a.tar:nginx", "docker-archive:/a.tar:docker.io/library/nginx:latest"),
        ("docker-archive:/a.tar:localhost/x:1", "docker-archive:/a.tar:localhost/x:1"),
        ("docker-archive:/a.tar:@0", "docker-archive:/a.tar:@0"),
        ("dir:/a:b@c", "dir:/a:b@c"),
        ("docker-daemon:nginx:1", "docker-daemon:nginx:1"),
        ("containers-storage:[overlay@/x+/y]z", "containers-storage:[overlay@/x+/y]z"),
    ],
)
def test_canonical_text(url: str, text: str) -> None:
    found = parse(url, nothing)
    assert found.text == str(found) == text
    assert parse(found.text, nothing) == found


def test_parts_of_a_docker_reference() -> None:
    assert parse(f"docker://nginx:1@{SUM}") == Reference(
        "docker", host="docker.io", repository="library/nginx", tag="1", digest=Digest(SUM)
    )
    assert parse("docker://quay.io/a/b").name == "quay.io/a/b"


@pytest.mark.parametrize("transport", sorted(FOREIGN))
def test_foreign_transports(transport: str) -> None:
    found = parse(f"{transport}:x:y")
    assert found.foreign
    assert found.path == "x:y"
    with pytest.raises(UsageError, match="names no image"):
        parse(f"{transport}:")


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("nginx", "docker://docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker://docker.io/library/nginx:1.27"),
        ("docker:nginx", "docker://docker.io/library/nginx:latest"),
        ("ghcr.io/a/b:c", "docker://ghcr.io/a/b:c"),
        ("localhost:5000/b", "docker://localhost:5000/b:latest"),
        ("https://ghcr.io/a/b", "docker://ghcr.io/a/b:latest"),
        (f"a/b@{SUM}", f"docker://docker.io/a/b@{SUM}"),
    ],
)
def test_a_name_without_transport_gets_the_full_one_suggested(url: str, full: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url, nothing)
    assert caught.value.hint == f"if it is in a registry, write {full}"
    assert caught.value.status == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "docker://",
        "docker:///a",
        "docker://nginx:",
        "docker://nginx:-x",
        "docker://nginx:" + "a" * 129,
        "docker://nginx:a/b",
        "docker://nginx@sha256:abc",
        f"docker://nginx@{SUM.upper()}",
        f"docker://nginx@{SUM}@{SUM}",
        "docker://nginx@",
        "docker://Nginx",
        "docker://a/../b",
        "docker://a//b",
        "docker://a/b/",
        "docker://-a/b",
        "docker://a/-b",
        "docker://a b",
        "docker://a.-b/c",
        "docker://a:0/b",
        "docker://a:65536/b",
        "docker://a:1000000000000/b",
        "docker://a:x/b",
        "docker://https://a/b",
        "docker://a?b",
        "docker://a#b",
        "docker://" + "0123456789abcdef" * 4,
        "docker://a.b/" + "c" * 255,
        "docker://nginx\n",
        "docker://nginx:1\r",
        "docker://\x1b]0;x\x07",
        "docker://ngіnx",
        "oci:",
        "oci::x",
        "oci:/a:",
        "oci:/a:-b",
        "oci:/a:b/../c",
        "oci:/a:b//c",
        "oci:/a:b\n",
        "oci:/a:@-1",
        "oci:/a:@x",
        "oci:/a@sha256:abc",
        "oci:/a\nb",
        "oci:/a\x00b",
        f"docker-archive:/a@{SUM}",
        f"docker-archive:/a:b@{SUM}",
        "docker-archive:/a:@-1",
        "docker-archive:/a:B",
        "docker-archive:/a:",
        "dir:",
        "oci:\udce9",
        "unknown:/a",
        "/a",
        "--url",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url, nothing)
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "docker://user:hunter2@quay.io/a/b",
        "docker://hunter2@quay.io/a",
        "user:hunter2@quay.io/a",
        "https://user:hunter2@quay.io/a",
        "docker:user:hunter2@quay.io/a",
        "docker://user:hunter2@quay.io/a\n",
        "docker://https://user:hunter2@quay.io/a",
    ],
)
def test_a_password_is_never_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_a_path_ends_at_the_first_colon_unless_something_else_exists(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    assert parse(f"oci:{odd}:c").path == str(tmp_path / "a")
    odd.mkdir()
    assert parse(f"oci:{odd}:c") == Reference("oci", path=str(odd), tag="c")
    assert parse(f"oci:{odd}") == Reference("oci", path=str(odd))
    (tmp_path / "a").mkdir()  # now as skopeo reads it
    assert parse(f"oci:{odd}:c") == Reference("oci", path=str(tmp_path / "a"), tag="b:c")


def test_a_relative_path_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("oci:x/../y:z").text == f"oci:{os.getcwd()}/x/../y:z"
    assert parse("dir:x").path == f"{os.getcwd()}/x"


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="the working directory is gone"):
        parse("oci:x")


_words = st.text(st.sampled_from("ab1.-_/:@ ..A\n"), max_size=30)


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(["docker://", "oci:", "oci-archive:", "docker-archive:", "dir:", ""]), _words)
def test_what_parses_is_plain_and_parses_again(prefix: str, rest: str) -> None:
    try:
        found = parse(prefix + rest, nothing)
    except UsageError:
        return
    assert found.text.isprintable()
    assert not found.tag.startswith("-")
    assert "/../" not in f"/{found.repository}/{found.tag}/"
    assert parse(found.text, nothing) == found
