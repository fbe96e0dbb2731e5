# SPDX-License-Identifier: LGPL-2.1-or-later
"""registries.conf(5): what is taken from which file, and where an image is then looked for."""

from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.source import registriesconf
from lxc_oci.source.registriesconf import Endpoint

PIN = "@sha256:" + "a" * 64


class Files:
    """A host's configuration files."""

    def __init__(self, directory: Path) -> None:
        self.system = directory / "etc"
        self.home = directory / "home"
        self.environment = {"HOME": str(self.home)}

    def write(self, name: str, text: str) -> None:
        """`name` begins with system/ or home/."""
        place, _, rest = name.partition("/")
        path = (self.system if place == "system" else self.home / ".config/containers") / rest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def load(self) -> registriesconf.Registries:
        return registriesconf.load(self.environment, str(self.system))

    def places(self, name: str, insecure: bool = False) -> list[str]:
        """Where an image is looked for: `host/repository`, with a ! behind for insecure."""
        found = self.load().places(references.parse(f"docker://{name}"), insecure)
        return [f"{item}{'!' * item.insecure}" for item in found]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_without_files_an_image_is_where_it_says(files: Files) -> None:
    assert files.load().places(references.parse("docker://docker.io/nginx"), False) == [
        Endpoint("docker.io", "library/nginx")
    ]
    assert files.places("h.example/a:1", insecure=True) == ["h.example/a!"]


MIRRORED = """
[[registry]]
prefix = "example.com/foo"
location = "internal.example.net/bar"
[[registry.mirror]]
location = "mirror-0.example/for-foo"
[[registry.mirror]]
location = "mirror-1.example/mirrors/foo/"
insecure = true
[[registry]]
location = "example.com"
insecure = true
"""


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "example.com/foo/image:1",
            [
                "mirror-0.example/for-foo/image",
                "mirror-1.example/mirrors/foo/image!",
                "internal.example.net/bar/image",
            ],
        ),
        (
            "example.com/foo:1",
            ["mirror-0.example/for-foo", "mirror-1.example/mirrors/foo!", "internal.example.net/bar"],
        ),
        ("example.com/foobar:1", ["example.com/foobar!"]),
        ("example.com/other:1", ["example.com/other!"]),
        ("example.com:5000/other:1", ["example.com:5000/other!"]),  # as containers/image does
        ("example.com.evil/foo:1", ["example.com.evil/foo"]),
        ("sub.example.com/foo:1", ["sub.example.com/foo"]),
    ],
)
def test_longest_prefix_decides(files: Files, name: str, expected: list[str]) -> None:
    files.write("system/registries.conf", MIRRORED)
    assert files.places(name) == expected


def test_insecure_of_the_command_line_is_not_for_mirrors(files: Files) -> None:
    files.write("system/registries.conf", MIRRORED)
    assert files.places("example.com/foo/image:1", insecure=True) == [
        "mirror-0.example/for-foo/image", "mirror-1.example/mirrors/foo/image!", "internal.example.net/bar/image!"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a.example.com/x:1", ["mirror.example/x", "a.example.com/x"]),
        ("a.b.example.com/x/y:1", ["mirror.example/x/y", "a.b.example.com/x/y"]),
        ("example.com/x:1", ["example.com/x"]),
        ("a.example.com.evil/x:1", ["a.example.com.evil/x"]),
        ("evil.example/a.example.com:1", ["evil.example/a.example.com"]),
    ],
)
def test_wildcard(files: Files, name: str, expected: list[str]) -> None:
    files.write(
        "system/registries.conf",
        '[[registry]]\nprefix = "*.example.com"\n[[registry.mirror]]\nlocation = "mirror.example"\n',
    )
    assert files.places(name) == expected


@pytest.mark.parametrize(
    "use, by_tag, by_digest",
    [("", True, True), ("all", True, True), ("digest-only", False, True), ("tag-only", True, False)],
)
def test_pull_from_mirror(files: Files, use: str, by_tag: bool, by_digest: bool) -> None:
    files.write(
        "system/registries.conf",
        '[[registry]]\nlocation = "h.example"\n'
        f'[[registry.mirror]]\nlocation = "m.example"\npull-from-mirror = "{use}"\n',
    )
    assert (len(files.places("h.example/a:1")) == 2) == by_tag
    assert (len(files.places(f"h.example/a{PIN}")) == 2) == by_digest
    assert (len(files.places(f"h.example/a:1{PIN}")) == 2) == by_digest


def test_mirror_by_digest_only(files: Files) -> None:
    files.write(
        "system/registries.conf",
        '[[registry]]\nlocation = "h.example"\nmirror-by-digest-only = true\n'
        '[[registry.mirror]]\nlocation = "m.example"\n',
    )
    assert files.places("h.example/a:1") == ["h.example/a"]
    assert len(files.places(f"h.example/a{PIN}")) == 2


@pytest.mark.parametrize("prefix", ["h.example", "h.example/a", "*.example"])
def test_blocked(files: Files, prefix: str) -> None:
    location = "" if prefix.startswith("*") else f'location = "{prefix}"\n'
    files.write("system/registries.conf", f'[[registry]]\nprefix = "{prefix}"\n{location}blocked = true\n')
    with pytest.raises(RefusedError, match=r"blocked by .*registries\.conf"):
        files.places("h.example/a:1")
    assert files.places("other.test/a:1")


def test_blocked_registry_may_have_a_mirror(files: Files) -> None:
    mirror = '[[registry.mirror]]\nlocation = "m.example"\n'
    files.write("system/registries.conf", f'[[registry]]\nlocation = "h.example"\nblocked = true\n{mirror}')
    assert files.places("h.example/a:1") == ["m.example/a"]
    files.write("system/registries.conf.d/1.conf", '[[registry]]\nlocation = "m.example"\nblocked = true\n')
    with pytest.raises(RefusedError, match="blocked"):
        files.places("h.example/a:1")


def test_the_registry_itself_is_never_a_mirror(files: Files) -> None:
    files.write("system/registries.conf", """
        [[registry]]
        location = "h.example"
        blocked = true
        [[registry.mirror]]
        location = "mirror.example"
        [[registry]]
        location = "open.example"
        [[registry.mirror]]
        location = "mirror.example"
    """)  # fmt: skip
    found = files.load()
    assert str(found.own(references.parse("docker://open.example/a:1"), False)) == "open.example/a"
    assert files.places("h.example/a:1") == ["mirror.example/a"]
    with pytest.raises(RefusedError, match="blocked"):
        found.own(references.parse("docker://h.example/a:1"), False)


def test_location_that_names_no_image(files: Files) -> None:
    for location in ("UPPER.example/X", "docker.io", "just-a-name"):
        files.write("system/registries.conf", f'[[registry]]\nprefix = "h.example"\nlocation = "{location}"\n')
        with pytest.raises(UsageError, match="becomes"):
            files.places("h.example/a:1")


def test_users_file_replaces_the_systems(files: Files) -> None:
    files.write("system/registries.conf", '[[registry]]\nlocation = "s.example"\nblocked = true\n')
    files.write("system/registries.conf.d/50.conf", '[[registry]]\nlocation = "d.example"\nblocked = true\n')
    files.write("home/registries.conf", '[[registry]]\nlocation = "h.example"\ninsecure = true\n')
    files.write("home/registries.conf.d/60.conf", '[[registry]]\nlocation = "u.example"\ninsecure = true\n')
    names = ["s.example/a:1", "d.example/a:1", "h.example/a:1", "u.example/a:1"]
    assert [files.places(name)[0][-1] == "!" for name in names] == [False, False, True, True]


def test_drop_ins_are_merged_in_order(files: Files) -> None:
    files.write(
        "system/registries.conf",
        'unqualified-search-registries = ["a.example"]\n[[registry]]\nlocation = "x.example"\nblocked = true\n',
    )
    files.write("system/registries.conf.d/10.conf", '[[registry]]\nlocation = "x.example"\ninsecure = true\n')
    files.write(
        "system/registries.conf.d/20.conf", 'credential-helpers = ["pass"]\n[aliases]\nnginx = "h.example/nginx"\n'
    )
    files.write("system/registries.conf.d/30.conf.off", "not TOML")
    files.write("home/registries.conf.d/05.conf", 'unqualified-search-registries = ["b.example", "c.example"]\n')
    assert files.places("x.example/a:1") == ["x.example/a!"]
    found = files.load()
    assert found.helpers == ["pass"]
    assert found.suggestions("nginx:1.27") == ["docker://h.example/nginx:1.27"]
    assert found.suggestions("redis") == ["docker://b.example/redis:latest", "docker://c.example/redis:latest"]


def test_named_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.conf").write_text('[[registry]]\nlocation = "h.example"\ninsecure = true\n')
    files.write("home/registries.conf", '[[registry]]\nlocation = "h.example"\nblocked = true\n')
    files.environment["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "mine.conf")
    assert files.places("h.example/a:1") == ["h.example/a!"]
    files.environment["CONTAINERS_REGISTRIES_CONF"] = str(tmp_path / "none.conf")
    with pytest.raises(UsageError, match="does not exist"):
        files.load()


def test_version_1(files: Files) -> None:
    files.write(
        "system/registries.conf",
        "[registries.search]\nregistries = ['s.example']\n[registries.insecure]\nregistries = ['i.example']\n"
        "[registries.block]\nregistries = ['b.example']\n",
    )
    assert files.places("i.example/a:1") == ["i.example/a!"]
    with pytest.raises(RefusedError, match="blocked"):
        files.places("b.example/a:1")
    assert files.load().suggestions("x") == ["docker://s.example/x:latest"]


@pytest.mark.parametrize(
    "text",
    [
        "[[registry]", "registry = 5", "[registry]\nlocation = 'x'", "[[registry]]\ninsecure = true",
        "[[registry]]\nprefix = 'h.example'", "[[registry]]\nlocation = 'https://h.example'",
        "[[registry]]\nlocation = 'h.example'\ninsecure = 'yes'", "[[registry]]\nlocation = 5",
        "[[registry]]\nprefix = '*.example.com/x'\nlocation = 'h'", "[[registry]]\nprefix = '*.example.com:5000'",
        "[[registry]]\nlocation = 'h.example'\npull-from-mirror = 'all'",
        "[[registry]]\nlocation = 'h.example'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'h.example'\n[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'never'",
        "[[registry]]\nlocation = 'h.example'\nmirror-by-digest-only = true\n"
        "[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'all'",
        "[[registry]]\nlocation = 'h.example'\n[[registry]]\nlocation = 'h.example'\ninsecure = true",
        "unqualified-search-registries = 'h'", "credential-helpers = [5]", "[aliases]\nx = 5",
        "[registries.block]\nregistries = ['b']\n[[registry]]\nlocation = 'x'", 'x = "\\q"',
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_file(files: Files, text: str) -> None:
    files.write("system/registries.conf", text)
    with pytest.raises(UsageError, match=r"registries\.conf"):
        files.load()


def test_version_1_in_a_drop_in_is_wrong(files: Files) -> None:
    files.write("system/registries.conf.d/1.conf", "[registries.block]\nregistries = ['b']\n")
    with pytest.raises(UsageError, match="version 1"):
        files.load()


def test_unreadable_file(files: Files) -> None:
    (files.system / "registries.conf").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot read"):
        files.load()
