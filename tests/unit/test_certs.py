# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.certs, and what of its files a process gets that cannot read the host's own."""

import os
import ssl
from pathlib import Path

from lxc_oci.source import hostfiles
from lxc_oci.source.certs import Trust
from tests.support.registry import Authority


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_copies_of_certificates_keep_whose_count(tmp_path: Path) -> None:
    """The private key of a client is root's alone; it is copied like the user's own files."""
    home, first, second, target = (tmp_path / name for name in ("home", "containers", "docker", "target"))
    write(home / ".config/containers/certs.d/a.example/ca.crt", "the user's")
    write(first / "a.example/ca.crt", "the system's")
    write(first / "b.example:5000/me.cert", "certificate")
    write(first / "b.example:5000/me.key", "key", 0o600)
    write(second / "b.example:5000/ca.crt", "docker's")
    write(second / "c.example/ca.crt", "docker's")
    target.mkdir()
    none = str(tmp_path / "none")
    environment = hostfiles.copy_own({"HOME": str(home)}, None, str(target), (str(first), none, str(second)))
    directory = Path(environment["HOME"]) / ".config/containers/certs.d"
    found = {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}
    assert found == {
        "a.example/ca.crt": "the user's",
        "b.example:5000/me.cert": "certificate",
        "b.example:5000/me.key": "key",
        "c.example/ca.crt": "docker's",
    }
    # Where the copies are is where they are looked for, whatever the variable says.
    assert Trust(environment)._directories[0] == str(directory)
    assert os.path.join(environment["XDG_CONFIG_HOME"], "containers/certs.d") != str(directory)


def test_first_directory_of_a_host_counts(tmp_path: Path) -> None:
    parents = [tmp_path / name for name in ("own", "containers", "docker")]
    trust = Trust({}, tuple(map(str, parents)))
    system = len(trust.context("none.example", "none.example", False).get_ca_certs())
    for number, (parent, hosts) in enumerate(zip(parents, ("a", "ab", "abc"), strict=True)):
        authority = Authority(tmp_path / f"authority-{number}")
        for host in hosts:
            authority.install(parent, f"{host}.example")
    for host, number in (("a", 0), ("b", 1), ("c", 2)):
        found = trust.context(f"{host}.example", f"{host}.example", False).get_ca_certs(binary_form=True)
        expected = ssl.PEM_cert_to_DER_cert((tmp_path / f"authority-{number}/ca.crt").read_text())
        assert expected in found and len(found) == system + 1
    assert hostfiles.CERTIFICATES == ("/etc/containers/certs.d", "/etc/docker/certs.d")
