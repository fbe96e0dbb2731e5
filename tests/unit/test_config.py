# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.image.config"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci.errors import RefusedError
from lxc_oci.image import config as configs
from lxc_oci.image import platform
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from tests.support import image

SUM = Digest("sha256:" + "a" * 64)


def parse(value: Any) -> ImageConfig:
    return configs.parse(json.dumps(value).encode())


def test_everything() -> None:
    found = parse(
        {
            "os": "linux",
            "architecture": "arm64",
            "created": "2020-01-01T00:00:00Z",
            "author": "A",
            "rootfs": {"type": "layers", "diff_ids": [SUM]},
            "history": [{"created_by": "x"}],
            "config": {
                "Entrypoint": ["/a", ""],
                "Cmd": ["b c"],
                "Env": ["A=b", "odd"],
                "User": "u:g",
                "WorkingDir": "/w",
                "StopSignal": "SIGQUIT",
                "Volumes": {"/v": {}},
                "ExposedPorts": {"80/tcp": {}},
                "Labels": {"l": "m"},
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1},
                "OnBuild": None,
            },
        }
    )
    assert found == ImageConfig(
        platform=platform.parse("linux/arm64"),
        diff_ids=(SUM,),
        entrypoint=("/a", ""),
        cmd=("b c",),
        env=("A=b", "odd"),
        user="u:g",
        working_dir="/w",
        stop_signal="SIGQUIT",
        volumes=("/v",),
        exposed_ports=("80/tcp",),
        labels={"l": "m"},
        healthcheck=("CMD", "x"),
        created="2020-01-01T00:00:00Z",
        author="A",
    )


@pytest.mark.parametrize(
    "value", [{}, {"config": None}, {"config": {}, "rootfs": None}, {"config": {"Env": None, "Labels": None}}]
)
def test_what_is_absent_or_null_has_its_default(value: dict[str, Any]) -> None:
    assert parse(value) == ImageConfig(platform=platform.normal("", "", ""))


def test_members_in_another_case_are_what_go_takes_them_for() -> None:
    assert parse({"Config": {"cmd": ["a"], "ENV": ["b=c"]}, "Os": "linux"}) == ImageConfig(
        platform=platform.normal("linux", "", ""), cmd=("a",), env=("b=c",)
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "not a JSON object"),
        ("x", "not a JSON object"),
        ({"config": []}, "config .* not an object"),
        ({"config": {"Env": "A=b"}}, "Env .* not a list of strings"),
        ({"config": {"Env": ["A=b", 1]}}, "Env .* not a list of strings"),
        ({"config": {"Env": {"A": "b"}}}, "Env .* not a list of strings"),
        ({"config": {"Env": [None]}}, "Env .* not a list of strings"),
        ({"config": {"Entrypoint": 5}}, "Entrypoint .* not a list"),
        ({"config": {"Entrypoint": "/bin/sh"}}, "Entrypoint .* not a list"),
        ({"config": {"Cmd": [["a"]]}}, "Cmd .* not a list"),
        ({"config": {"User": 0}}, "User .* not a string"),
        ({"config": {"WorkingDir": []}}, "WorkingDir .* not a string"),
        ({"config": {"StopSignal": 9}}, "StopSignal .* not a string"),
        ({"config": {"Volumes": ["/v"]}}, "Volumes .* not an object"),
        ({"config": {"Labels": {"a": 1}}}, "Labels .* not strings"),
        ({"config": {"Healthcheck": []}}, "Healthcheck .* not an object"),
        ({"os": 1.5}, "os .* not a string"),
        ({"rootfs": {"diff_ids": []}}, "rootfs type None"),
        ({"rootfs": {"type": "tar", "diff_ids": []}}, "rootfs type 'tar'"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "diff_ids .* not a list"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}}, "DiffID .* is not a sha256"),
        ({"rootfs": {"type": "layers", "diff_ids": [SUM.upper()]}}, "DiffID .* is not a sha256"),
        ({"config": {}, "Config": {}}, "two members .* 'config'"),
        ({"config": {"Env": [], "env": []}}, "two members .* 'Env'"),
        ({"rootfs": {"type": "layers", "Diff_IDs": [], "diff_ids": []}}, "two members .* 'diff_ids'"),
    ],
)
def test_refused(value: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        parse(value)


def test_no_configuration() -> None:
    assert configs.is_empty(Descriptor(image.EMPTY, SUM, 2))
    assert configs.is_empty(Descriptor(image.CONFIG, Digest(image.digest(b"{}")), 2))
    assert not configs.is_empty(Descriptor(image.CONFIG, SUM, 2))
    found = configs.without_config(platform.parse("linux/amd64"))
    assert (found.entrypoint, found.user, found.working_dir, found.env) == (("/bin/sh",), "0:0", "/", ())


_names = st.sampled_from(
    [
        "config",
        "rootfs",
        "type",
        "diff_ids",
        "os",
        "Env",
        "Cmd",
        "Entrypoint",
        "Labels",
        "Volumes",
        "Healthcheck",
        "Test",
    ]
)
_scalars = st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text(max_size=3), st.sampled_from(["layers", SUM]))
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4), max_leaves=12
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(_names, _values, max_size=6))
def test_whatever_comes_is_typed_or_refused(document: dict[str, Any]) -> None:
    try:
        found = parse(document)
    except RefusedError:
        return
    assert all(type(item) is str for item in (*found.env, *found.cmd, *found.entrypoint, *found.labels.values()))
    assert all(isinstance(item, Digest) for item in found.diff_ids)
