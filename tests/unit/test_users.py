# SPDX-License-Identifier: LGPL-2.1-or-later
"""`user[:group]` by the image's own files."""

import os
from pathlib import Path

import pytest

from lxc_oci.container import idmap, lxcconfig, users
from lxc_oci.container.users import Identity
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits

PASSWD = """\
# comment
root:x:0:0:root:/root:/bin/sh
daemon:*:1:2
app:x:1000:1001:App:/srv/app:/bin/false
app:x:7:7:::second is not looked at
broken:x:ten:0::/:
nohome:x:5:5::relative:
:x:99:99::/:
"""
GROUP = """\
root:x:0:root
wheel:x:10:root,app
app:x:1001:
data:x:2000:other,app
data2:x:2001:apple,app2
dup:x:2000:app
bad:x:many:app
own:x:1001:app
short:x:9
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


def identify(image: Path, text: str, limits: Limits | None = None) -> Identity:
    with Root.at(str(image)) as root:
        return users.identify(text, root, None, limits or Limits())


@pytest.mark.parametrize(
    "text, expected",
    (
        ("", Identity(0, 0, (10,), "/root")),
        ("root", Identity(0, 0, (10,), "/root")),
        ("0", Identity(0, 0, (10,), "/root")),
        ("app", Identity(1000, 1001, (10, 2000), "/srv/app")),
        ("1000", Identity(1000, 1001, (10, 2000), "/srv/app")),
        ("app:data", Identity(1000, 2000, (), "/srv/app")),
        ("app:2001", Identity(1000, 2001, (), "/srv/app")),
        ("4242", Identity(4242, 0, (), "/")),
        ("4242:4243", Identity(4242, 4243, (), "/")),
        ("daemon", Identity(1, 2, (), "/")),
        ("nohome", Identity(5, 5, (), "/")),
        ("root:short", Identity(0, 9, (), "/root")),
    ),
)
def test_identities(image: Path, text: str, expected: Identity) -> None:
    assert identify(image, text) == expected


@pytest.mark.parametrize(
    "text", ("broken", "nobody", "app:nobody", "app:bad", "2147483648", "app:2147483648", "a" * 5000)
)
def test_refusals_name_the_user(image: Path, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        identify(image, text)
    assert text.split(":")[-1][:20] in caught.value.message
    assert "--user" in caught.value.hint


def test_without_the_files(tmp_path: Path) -> None:
    assert identify(tmp_path, "") == Identity(0, 0)
    assert identify(tmp_path, "5:6") == Identity(5, 6)
    (tmp_path / "etc").write_text("a file")
    assert identify(tmp_path, "5") == Identity(5, 0)
    with pytest.raises(RefusedError, match="no user"):
        identify(tmp_path, "root")


def test_files_beyond_the_limit(image: Path) -> None:
    with pytest.raises(RefusedError, match="larger than"):
        identify(image, "app", Limits(user_database_bytes=20))


def test_a_fifo_is_not_waited_for(image: Path) -> None:
    (image / "etc/group").unlink()
    os.mkfifo(image / "etc/group")
    with pytest.raises(RefusedError, match="regular file"):
        identify(image, "app")
    assert identify(image, "app:5").gid == 5


def test_too_many_groups(image: Path) -> None:
    (image / "etc/group").write_text("".join(f"g{number}:x:{number}:app\n" for number in range(1, 1100)))
    with pytest.raises(RefusedError, match="1098 groups"):
        identify(image, "app")


def test_names_are_bytes(image: Path) -> None:
    (image / "etc/passwd").write_bytes(b"m\xc3\xbcller:x:3:4::/h\xff:\n")
    assert identify(image, "müller") == Identity(3, 4, (), "/h\udcff")


def test_id_maps() -> None:
    lines = lxcconfig.parse(
        b"lxc.idmap = u 0 1 1\nlxc.idmap =\nlxc.idmap = u 0 100000 65536\n"
        b"lxc.idmap = g 0 200000 1000\nlxc.idmap = b 70000 5 2\n"
    )
    found = idmap.from_config(lines)
    assert found is not None
    assert [idmap.inside(number, found.uids) for number in (0, 65535, 65536, 70000, 70002)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert [idmap.inside(number, found.gids) for number in (999, 1000, 70001)] == [True, False, True]
    assert idmap.from_config([]) is None


@pytest.mark.parametrize("value", ("u 0 x 1", "u 0 1", "u 0 1 -1"))
def test_id_maps_that_are_none(value: str) -> None:
    with pytest.raises(UsageError, match=r"lxc\.idmap"):
        idmap.from_config([lxcconfig.Line("lxc.idmap", value)])
