# SPDX-License-Identifier: LGPL-2.1-or-later
"""Credentials: which file, which entry, which helper."""

import base64
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.errors import AccessError, UsageError
from lxc_oci.kernel import run
from lxc_oci.limits import Limits
from lxc_oci.source.auth import Credentials, Keyring
from tests.support import need

HOST = "registry.example"


class Host:
    """A user's files and environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "HOME": str(directory / "home"),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        self.warnings: list[str] = []

    def write(self, path: str, document: Any) -> Path:
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(document if isinstance(document, str) else json.dumps(document))
        return target

    def find(
        self, repository: str = "team/app", host: str = HOST, authfile: Path | None = None, helpers: Any = ()
    ) -> str | None:
        """The user's name that is used."""
        found = self.credentials(repository, host, authfile, helpers)
        return None if found is None else found.username

    def credentials(
        self, repository: str = "team/app", host: str = HOST, authfile: Path | None = None, helpers: Any = ()
    ) -> Credentials | None:
        keyring = Keyring(authfile and str(authfile), self.environment, Limits(), self.warnings.append, helpers)
        return keyring.find(host, repository)


def entry(user: str, password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def auths(**users: str) -> dict[str, Any]:
    return {"auths": {key: entry(user) for key, user in users.items()}}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_order_of_files(host: Host) -> None:
    """Each file that is taken away leaves the word to the next."""
    paths = [
        host.write("run/containers/auth.json", auths(**{HOST: "first"})),
        host.write("config/containers/auth.json", auths(**{HOST: "second"})),
        host.write("home/.docker/config.json", auths(**{HOST: "third"})),
        host.write("home/.dockercfg", {HOST: entry("fourth")}),
    ]
    for path, user in zip(paths, ["first", "second", "third", "fourth"], strict=True):
        assert host.find() == user
        path.unlink()
    assert host.find() is None


def test_file_without_a_match_leaves_the_word_to_the_next(host: Host) -> None:
    host.write("run/containers/auth.json", auths(**{"other.example": "other"}))
    host.write("config/containers/auth.json", {"auths": {HOST: {}}})
    host.write("home/.docker/config.json", auths(**{HOST: "me"}))
    assert host.find() == "me"


def test_named_file_is_the_only_one(host: Host, tmp_path: Path) -> None:
    host.write("run/containers/auth.json", auths(**{HOST: "default"}))
    mine = host.write("mine.json", auths(**{HOST: "mine"}))
    other = host.write("other.json", auths(**{"other.example": "x"}))
    host.environment["REGISTRY_AUTH_FILE"] = str(mine)
    assert host.find() == "mine"
    assert host.find(authfile=other) is None
    host.environment["REGISTRY_AUTH_FILE"] = str(tmp_path / "none.json")
    with pytest.raises(UsageError, match="does not exist"):
        host.find()


def test_docker_config_directory(host: Host, tmp_path: Path) -> None:
    host.write("docker/config.json", auths(**{HOST: "me"}))
    host.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")
    assert host.find() == "me"


@pytest.mark.parametrize(
    "repository, user", [("a/b/c", "abc"), ("a/b/d", "ab"), ("a/x", "a"), ("a", "a"), ("x/y", "host"), ("ab/c", "host")]
)
def test_longest_path_matches(host: Host, repository: str, user: str) -> None:
    entries = {HOST: "host", f"{HOST}/a": "a", f"{HOST}/a/b": "ab", f"{HOST}/a/b/c": "abc"}
    host.write("run/containers/auth.json", auths(**entries))
    assert host.find(repository) == user


@pytest.mark.parametrize(
    "key", ["registry.example.evil", "registry.exampl", "xregistry.example", "registry.example:5000"]
)
def test_similar_hosts_do_not_match(host: Host, key: str) -> None:
    host.write("run/containers/auth.json", auths(**{key: "me"}))
    assert host.find() is None


@pytest.mark.parametrize(
    "key", ["https://registry.example", "http://registry.example/v1/", "https://registry.example/v2/x"]
)
def test_old_keys_match(host: Host, key: str) -> None:
    host.write("run/containers/auth.json", auths(**{key: "me"}))
    assert host.find() == "me"


@pytest.mark.parametrize(
    "key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", "docker.io/library"]
)
def test_names_of_docker_hub(host: Host, key: str) -> None:
    host.write("run/containers/auth.json", auths(**{key: "me"}))
    assert host.find("library/nginx", "docker.io") == "me"
    assert host.find("library/nginx", "quay.io") is None


@pytest.mark.parametrize(
    "value, expected",
    [
        (entry("me", "a:b:c"), ("me", "a:b:c", "")),
        (entry("me", "x\0\0"), ("me", "x", "")),
        ({"username": "me", "password": "x"}, ("me", "x", "")),
        ({"auth": "bWU6\r\nc2Vjcm\nV0"}, ("me", "secret", "")),
        (entry("me", ""), ("me", "", "")),
        (entry("", "x"), None),
        ({"identitytoken": "tok"}, ("", "", "tok")),
        ({**entry("me", ""), "identitytoken": "tok"}, ("me", "", "tok")),
        ({"auth": ""}, None),
        ({"auth": "%%%"}, None),
        ({"auth": base64.b64encode(b"no colon").decode()}, None),
        ({"auth": base64.b64encode(b"\xff:x").decode()}, None),
        ({"auth": 5}, None),
        ({}, None),
    ],
)
def test_entries(host: Host, value: dict[str, Any], expected: tuple[str, str, str] | None) -> None:
    host.write("run/containers/auth.json", {"auths": {HOST: value}})
    found = host.credentials()
    assert (found and (found.username, found.password, found.identity_token)) == expected


def test_broken_entry_is_told_without_its_text(host: Host) -> None:
    host.write("run/containers/auth.json", {"auths": {HOST: {"auth": "c2VjcmV0"}}})
    assert host.find() is None
    assert len(host.warnings) == 1 and HOST in host.warnings[0] and "c2VjcmV0" not in host.warnings[0]


@pytest.mark.parametrize("text", ["{secret", "[]", '{"auths": {}, "auths": {}}'])
def test_broken_file_is_told_without_its_text(host: Host, text: str) -> None:
    path = host.write("run/containers/auth.json", text)
    with pytest.raises(UsageError) as caught:
        host.find()
    assert str(path) in caught.value.message and "secret" not in caught.value.message


def test_empty_file_and_missing_members(host: Host) -> None:
    for text in ("", "{}", '{"auths": null}', '{"auths": []}'):
        host.write("run/containers/auth.json", text)
        assert host.find() is None


def test_fifo_does_not_hang(host: Host, tmp_path: Path) -> None:
    (tmp_path / "run/containers").mkdir(parents=True)
    os.mkfifo(tmp_path / "run/containers/auth.json")
    assert host.find() is None


def test_credentials_do_not_show() -> None:
    found = Credentials("me", "secret", "token")
    assert "secret" not in repr(found) and "token" not in repr(found)


# --- helpers: real programs, in a directory that stands for the system's ------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setattr(run, "SYSTEM_PATH", f"{directory}:{run.SYSTEM_PATH}")
    return directory


def helper(programs: Path, name: str, script: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


ECHO = 'read server; printf \'{"ServerURL":"%s","Username":"%s","Secret":"s"}\' "$server" "$1-$server"'


def test_helper_of_a_host_goes_before_the_entries(host: Host, programs: Path) -> None:
    helper(programs, "mine", ECHO)
    host.write("run/containers/auth.json", {**auths(**{HOST: "file"}), "credHelpers": {HOST: "mine"}})
    assert host.find() == f"get-{HOST}"
    assert host.find(host="other.example") is None


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io"])
def test_helper_of_docker_hub(host: Host, programs: Path, key: str) -> None:
    helper(programs, "mine", ECHO)
    host.write("run/containers/auth.json", {"credHelpers": {key: "mine"}})
    assert host.find("library/nginx", "docker.io") == f"get-{key}"


def test_store_is_asked_last(host: Host, programs: Path) -> None:
    helper(programs, "all", ECHO)
    host.write("home/.docker/config.json", {**auths(**{"a.example": "file"}), "credsStore": "all"})
    assert host.find(host="a.example") == "file"
    assert host.find() == f"get-{HOST}"
    assert host.find(host="docker.io") == "get-https://index.docker.io/v1/"


def test_helpers_of_registries_conf(host: Host, programs: Path) -> None:
    helper(programs, "none", 'echo "credentials not found in native keychain"; exit 1')
    helper(programs, "mine", ECHO)
    host.write("run/containers/auth.json", auths(**{HOST: "file"}))
    assert host.find(helpers=["none", "containers-auth.json", "mine"]) == "file"
    assert host.find(helpers=["none", "mine"]) == f"get-{HOST}"


def test_failing_helper_does_not_end_the_search(host: Host, programs: Path) -> None:
    """As in containers/image: a host's list may name a helper that works in a desktop's session only."""
    helper(programs, "failing", "exit 1")
    host.write("run/containers/auth.json", auths(**{HOST: "file"}))
    for first in ("failing", "not-installed"):
        assert host.find(helpers=[first, "containers-auth.json"]) == "file"
        with pytest.raises(AccessError, match=f"docker-credential-{first}"):
            host.find(host="other.example", helpers=[first, "containers-auth.json"])
    with pytest.raises(AccessError, match=r"failing.*; .*not-installed"):
        host.find(helpers=["failing", "not-installed"])


@pytest.mark.parametrize("store", ["failing", "not-installed", "../evil"])
def test_failing_store_is_told_and_passed_over(host: Host, programs: Path, store: str) -> None:
    """Docker Desktop leaves its credsStore behind; images that need no login must not need it either."""
    helper(programs, "failing", "exit 1")
    host.write("config/containers/auth.json", {"credsStore": store})
    assert host.find() is None
    assert len(host.warnings) == 1 and store in host.warnings[0]
    host.write("home/.docker/config.json", auths(**{HOST: "me"}))
    assert host.find() == "me"


def test_helper_is_looked_for_in_the_systems_path_only(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's PATH may name directories that others write to; sudo keeps a user's."""
    directory = tmp_path / "bin"
    directory.mkdir()
    helper(directory, "mine", ECHO)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    host.environment["PATH"] = os.environ["PATH"]
    host.write("run/containers/auth.json", {"credHelpers": {HOST: "mine"}})
    with pytest.raises(AccessError, match="not installed"):
        host.find()


def test_identity_token_of_a_helper(host: Host, programs: Path) -> None:
    helper(programs, "mine", 'echo \'{"ServerURL":"x","Username":"<token>","Secret":"tok"}\'')
    host.write("run/containers/auth.json", {"credHelpers": {HOST: "mine"}})
    found = host.credentials()
    assert found is not None and (found.username, found.identity_token) == ("", "tok")


def test_helper_gets_no_secrets_and_no_arguments_but_get(host: Host, programs: Path, tmp_path: Path) -> None:
    helper(
        programs,
        "mine",
        f'cd {tmp_path}; env > env; echo "$#" "$@" > arguments; cat > input; {{ {ECHO}; }} < input',
    )
    host.environment |= {"SECRET": "x", "LD_PRELOAD": "/evil.so", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/evil"}
    passed = {"https_proxy": "http://p:1", "NO_PROXY": "a", "AWS_CONFIG_FILE": "/x", "SSL_CERT_FILE": "/x"}
    host.environment |= {"HTTPS_PROXY": "http://me:secret@p:1", **passed}
    host.write("run/containers/auth.json", {"credHelpers": {HOST: "mine"}})
    host.find()
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    known = {"PATH", "LC_ALL", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", *passed}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == known
    assert (tmp_path / "arguments").read_text() == "1 get\n"
    assert (tmp_path / "input").read_text() == HOST


@pytest.mark.parametrize(
    "script",
    ["echo secret >&2; exit 1", "echo secret", "echo '[]'", 'echo \'{"Username":5,"Secret":"secret"}\'', "exit 0"],
)
def test_helper_that_fails_is_named_without_its_words(host: Host, programs: Path, script: str) -> None:
    helper(programs, "mine", script)
    host.write("run/containers/auth.json", {"credHelpers": {HOST: "mine"}})
    with pytest.raises(AccessError, match="docker-credential-mine") as caught:
        host.find()
    assert "secret" not in caught.value.message


def test_helper_that_is_missing(host: Host) -> None:
    host.write("run/containers/auth.json", {"credHelpers": {HOST: "not-installed"}})
    with pytest.raises(AccessError, match="not installed"):
        host.find()


@pytest.mark.parametrize("name", ["../evil", "a b", "-x", "a/b", ".hidden"])
def test_helper_is_a_name(host: Host, name: str) -> None:
    host.write("run/containers/auth.json", {"credHelpers": {HOST: name}})
    with pytest.raises(UsageError, match="name of a credential helper"):
        host.find()


IN_NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
    sys.exit(os.strerror(ctypes.get_errno()))
print("ready", flush=True)
sys.stdin.readline()
os.setgroups([]); os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
from lxc_oci.limits import Limits
from lxc_oci.source import hostfiles, policy
from lxc_oci.source.auth import Keyring
found = Keyring(None, os.environ, Limits(), print).find("registry.example", "team/app")
print(os.stat(os.environ["HOME"]).st_uid, found.username, policy.load(os.environ).path)
print(hostfiles.runtime({"HOME": os.environ["HOME"]}))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can pass: pytest's own are private."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.root
def test_users_files_are_found_in_a_user_namespace(public: Path) -> None:
    """As lxc-create runs a template for a plain user: root inside, the user's own id mapped behind the range."""
    need.root()
    home = public / "home"
    for path, document in (
        (home / ".config/containers/auth.json", auths(**{HOST: "me"})),
        (home / ".config/containers/policy.json", {"default": [{"type": "reject"}]}),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        path.chmod(0o600)
    for path in (home, *home.rglob("*")):
        os.chown(path, 1000, 1000)
    home.chmod(0o700)
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", IN_NAMESPACE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={"HOME": str(home), "XDG_RUNTIME_DIR": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.communicate(b"", timeout=60)
        need.missing("user namespaces cannot be made here")
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text("0 100000 65536\n65536 1000 1\n")
    output, _ = process.communicate(b"go\n", timeout=60)
    policy_path = str(home / ".config/containers/policy.json")
    # Without XDG_RUNTIME_DIR, logins are where podman puts them for the user, whose id is another in here.
    assert output.decode().split() == ["65536", "me", policy_path, "/run/containers/1000"]
