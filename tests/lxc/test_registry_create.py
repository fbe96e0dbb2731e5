# SPDX-License-Identifier: LGPL-2.1-or-later
"""Creates from a real registry: what is asked of it, how often, and with which credentials."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support import registry as registries
from tests.support.host import Host

PASSWORD = "correct horse"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> registries.Authority:
    return registries.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory, authority: registries.Authority) -> Iterator[registries.Registry]:
    """A registry with TLS and basic authentication."""
    with registries.serve(tmp_path_factory.mktemp("private"), authority=authority, users={"me": PASSWORD}) as made:
        made.push("team/app", "1", images.busybox_image())
        yield made


def app(number: int) -> images.Image:
    """A small image that differs by its number in one layer."""
    return images.busybox_image({}, images.layer(images.file("number", str(number))))


def asked(registry: registries.Registry, repository: str) -> tuple[int, int]:
    """How often manifests and blobs of the repository were asked for."""
    manifests = sum(registry.requests(method, f"/{repository}/manifests/") for method in ("GET", "HEAD"))
    return manifests, registry.requests("GET", f"/{repository}/blobs/")


@pytest.mark.parametrize("storage", ["auto", "flat"])
def test_a_warm_create_by_digest_asks_nobody(any_host: Host, registry: registries.Registry, storage: str) -> None:
    repository = f"warm/{'user' if any_host.user else 'root'}-{storage}"
    digest = registry.push(repository, "1", app(1))
    url = f"docker://{registry.host}/{repository}@{digest}"
    any_host.create("one", url, "--insecure", "--storage", storage)
    before = asked(registry, repository)
    assert before[1] == 3  # configuration and two layers
    any_host.create("two", url, "--insecure", "--storage", storage)
    assert asked(registry, repository) == before
    assert any_host.execute("two", "/bin/cat", "/number") == b"1"


def test_a_warm_create_by_tag_asks_once(root_host: Host, registry: registries.Registry) -> None:
    registry.push("warm/tag", "1", images.Index([app(2)]))
    url = f"docker://{registry.host}/warm/tag:1"
    root_host.create("one", url, "--insecure")
    manifests, blobs = asked(registry, "warm/tag")
    root_host.create("two", url, "--insecure")
    assert asked(registry, "warm/tag") == (manifests + 1, blobs)


def test_a_tag_that_moved_is_followed_and_only_the_new_layer_fetched(
    root_host: Host, registry: registries.Registry
) -> None:
    url = f"docker://{registry.host}/moved/app:1"
    registry.push("moved/app", "1", app(3))
    root_host.create("one", url, "--insecure", "--storage", "flat")
    blobs = asked(registry, "moved/app")[1]
    registry.push("moved/app", "1", app(4))
    root_host.create("two", url, "--insecure", "--storage", "flat")
    assert root_host.execute("two", "/bin/cat", "/number") == b"4"
    assert asked(registry, "moved/app")[1] == blobs + 2  # configuration and the layer that changed


def test_no_cache_asks_again_and_keeps_nothing(root_host: Host, registry: registries.Registry) -> None:
    registry.push("uncached/app", "1", app(5))
    url = f"docker://{registry.host}/uncached/app:1"
    for name in ("one", "two"):
        root_host.create(name, url, "--insecure", "--no-cache")
    assert asked(registry, "uncached/app")[1] == 6
    assert not root_host.store.exists()
    assert root_host.execute("two", "/bin/cat", "/number") == b"5"


def test_ten_creates_at_once_download_once(any_host: Host, registry: registries.Registry, place: Path) -> None:
    repository = f"parallel/{'user' if any_host.user else 'root'}"
    noise = images.layer(images.file("noise", (b"%d" % 7919) * 400_000), compression="")
    registry.push(repository, "1", images.busybox_image({}, noise))
    url = f"docker://{registry.host}/{repository}:1"
    environment = any_host._environment()
    command = [*any_host._become(), "lxc-create", "-P", str(any_host.lxcpath), "-f", str(any_host.configuration)]
    running = [
        subprocess.Popen(
            [*command, "-n", f"c{number}", "-t", any_host.template, "--", "--url", url, "--insecure"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )
        for number in range(10)
    ]  # fmt: skip
    for process in running:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    for layer in (images.busybox_rootfs(), noise):
        assert registry.requests("GET", f"/{repository}/blobs/{images.digest(layer.blob)}") == 1
    found = direct.inspect(any_host, "c7")
    assert direct.parts(any_host) == sorted(found["parts"])
    assert len(found["parts"]) == (2 if found["storage"] == "index" else 1)  # one of each layer, or one tree
    assert direct.store_leftovers(any_host) == []
    assert any_host.execute("c7", "/bin/sh", "-c", "wc -c < /noise") == b"1600000\n"


# --- logins and TLS --------------------------------------------------------------------------------------------


def authfile(path: Path, host: str, password: str = PASSWORD) -> str:
    """A file as podman login writes it."""
    text = base64.b64encode(f"me:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": text}}}))
    path.chmod(0o644)
    return str(path)


@pytest.mark.parametrize("way", ["authfile", "password file", "standard input", "password", "REGISTRY_AUTH_FILE"])
def test_credentials_arrive(root_host: Host, place: Path, private: registries.Registry, way: str) -> None:
    url = f"docker://{private.host}/team/app:1"
    (place / "password").write_text(f"{PASSWORD}\nsecond line\n")
    file = authfile(place / "auth.json", private.host)
    options, words = {
        "authfile": (("--authfile", file), {}),
        "password file": (("--username", "me", "--password-file", str(place / "password")), {}),
        "standard input": (("--username", "me", "--password-stdin"), {"input": f"{PASSWORD}\n".encode()}),
        "password": (("--username", "me", "--password", PASSWORD), {}),
        "REGISTRY_AUTH_FILE": ((), {}),
    }[way]
    environment = {"REGISTRY_AUTH_FILE": file} if way == "REGISTRY_AUTH_FILE" else {}
    done = root_host.run(
        "lxc-create", "-P", root_host.lxcpath, "-f", root_host.configuration, "-n", "one", "-t", root_host.template,
        "--", "--url", url, "--insecure", *options, environment=environment, **words,
    )  # fmt: skip
    assert PASSWORD.encode() not in done.stdout + done.stderr
    found = subprocess.run(["grep", "-rlF", PASSWORD, str(root_host.lxcpath), str(root_host.store)],
                           capture_output=True, check=False, text=True).stdout.split()  # fmt: skip
    # LXC itself writes the arguments into its header, which the template warns of.
    assert found == ([f"{root_host.lxcpath}/one/config"] if way == "password" else [])
    assert (b"--password" in done.stderr) == (way == "password")


def test_no_and_wrong_credentials(root_host: Host, place: Path, private: registries.Registry) -> None:
    url = f"docker://{private.host}/team/app:1"
    right, wrong = (authfile(place / name, private.host, password) for name, password in
                    (("right", PASSWORD), ("wrong", "battery staple")))  # fmt: skip
    for options in ((), ("--authfile", wrong)):
        done = direct.run(root_host, "bad", "--url", url, "--insecure", *options)
        assert done.returncode == 4, done.stderr.decode()
        direct.check_message(done, private.host)
        assert b"battery" not in done.stderr
        assert direct.leftovers(root_host, "bad") == []
        direct.discard(root_host, "bad")
        assert root_host.create("bad", url, "--insecure", *options, check=False).returncode == 1
        assert not (root_host.lxcpath / "bad").exists()
    root_host.create("bad", url, "--insecure", "--authfile", right)


def test_a_users_own_login(user_host: Host, private: registries.Registry, test_user: str) -> None:
    # podman login writes it below XDG_RUNTIME_DIR or HOME; the template runs as root of a user namespace.
    home = Path(f"/home/{test_user}")
    directory = home / ".config/containers"
    directory.mkdir(parents=True)
    authfile(directory / "auth.json", private.host)
    try:
        subprocess.run(["chown", "-R", f"{test_user}:{test_user}", str(home / ".config")], check=True)
        (directory / "auth.json").chmod(0o600)
        user_host.create("one", f"docker://{private.host}/team/app:1", "--insecure")
    finally:
        subprocess.run(["rm", "-rf", str(home / ".config")], check=True)


def test_tls_is_verified(
    root_host: Host, place: Path, private: registries.Registry, authority: registries.Authority
) -> None:
    url = f"docker://{private.host}/team/app:1"
    file = authfile(place / "auth.json", private.host)
    done = direct.run(root_host, "bad", "--url", url, "--authfile", file)
    assert done.returncode == 3
    direct.check_message(done, "certificate")
    direct.discard(root_host, "bad")
    certs = place / "certs.d"
    authority.install(certs, private.host)
    # The host's own directory, seen by this process only.
    trusted = "/etc/containers/certs.d"
    script = f'mkdir -p {trusted} && mount --bind {certs} {trusted} && exec "$@"'
    created = not Path(trusted).exists()
    try:
        direct.prepare(root_host, "good")
        command = direct.command(root_host, "good", "--url", url, "--authfile", file)
        root_host.run("unshare", "-m", "/bin/sh", "-c", script, "sh", *command)
    finally:
        if created:
            subprocess.run(["rmdir", trusted], check=False)


def test_skopeo_pushed_what_we_pull(root_host: Host, registry: registries.Registry, layouts: Path) -> None:
    need.program("skopeo")
    path = images.write_layout(layouts / "pushed", {"latest": app(6)})
    for number, options in enumerate(((), ("--format", "v2s2"), ("--dest-compress-format", "zstd"))):
        target = f"docker://{registry.host}/skopeo/app:{number}"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", *options, f"oci:{path}:latest", target],
            check=True, capture_output=True, env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(layouts)},
        )  # fmt: skip
        root_host.create(f"c{number}", target, "--insecure")
        assert root_host.execute(f"c{number}", "/bin/cat", "/number") == b"6"
