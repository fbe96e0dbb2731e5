# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real servers from Debian's packages, made into images as such images are: started, asked, stopped, started again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bridge, debian
from tests.support import host as hosts
from tests.support import image as images
from tests.support.bridge import Network, wait_for
from tests.support.host import Host
from tests.support.launch import CHECKOUT, INSTALLED

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOOKS = "/usr/share/lxc/hooks"
CONFIGS = {
    "nginx": {
        "Entrypoint": ["nginx", "-g", "daemon off; error_log /dev/stderr notice;"],
        "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}},
    },
    "postgres": {
        "Entrypoint": ["/usr/local/pgsql/postgres", "-D", "/pgdata"],
        "Cmd": ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"],
        "User": "postgres",
        "Volumes": {"/pgdata": {}},
        "StopSignal": "SIGINT",
    },
    "redis": {
        "Entrypoint": ["redis-server"],
        "Cmd": ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "3600 1 300 100"],
        "User": "redis",
        "WorkingDir": "/data",
        "Volumes": {"/data": {}},
    },
    "web": {
        "Entrypoint": ["python3", "-u", "-m", "http.server"],
        "Cmd": ["8000"],
        "User": "1000:1000",
        "WorkingDir": "/srv/app",
    },
}


@pytest.fixture(scope="module")
def layout(layouts: Path) -> Path:
    """One OCI layout with an image for each application; all have the same layer."""
    layer = images.layer(debian.applications().read_bytes(), compression="")
    path = layouts / "applications"
    images.write_layout(
        path, {name: images.Image([layer], {"Env": [PATH], **config}) for name, config in CONFIGS.items()}
    )
    return path


@pytest.fixture
def net(place: Path) -> Iterator[Network]:
    with bridge.network(place) as made:
        made.serve()
        if not INSTALLED:  # the checkout's hooks, for this test's mount namespace alone
            made.run("sh", "-ec", f"cp -a {HOOKS} {place}/hooks; cp {CHECKOUT}/hooks/oci-py-* {place}/hooks/")
            made.run("mount", "--bind", place / "hooks", HOOKS)
        yield made


@pytest.fixture(scope="module")
def shared_store(layouts: Path) -> Path:
    """One store for all tests: the layer is unpacked once."""
    return layouts / "store"


@pytest.fixture
def host(net: Network, place: Path, shared_store: Path) -> Iterator[Host]:
    with hosts.host(place) as made:
        made.prefix = tuple(net.prefix)
        made.store = shared_store
        text = made.configuration.read_text().replace("lxc.net.0.type = empty\n", "")
        made.configuration.write_text(
            f"lxc.net.0.type = veth\nlxc.net.0.link = {bridge.BRIDGE}\nlxc.net.0.flags = up\n{text}"
        )
        try:
            yield made
        finally:
            made.store = place / "none"  # the shared one stays


def address(host: Host, name: str) -> str:
    return host.lxc("info", name, "-iH").stdout.decode().split()[0]


def log(host: Host, name: str) -> str:
    return (host.lxcpath / name / "console.log").read_text(errors="replace")


def http(net: Network, url: str) -> bytes:
    program = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=20).read())"
    return net.run("/usr/bin/python3", "-IS", "-c", program, url, check=False).stdout


def test_nginx(host: Host, net: Network, layout: Path) -> None:
    host.create("nginx", f"oci:{layout}:nginx")
    for _ in range(2):
        host.start("nginx")
        url = f"http://{address(host, 'nginx')}/"
        wait_for(lambda url=url: b"Welcome to nginx" in http(net, url), "nginx to answer")
        host.stop("nginx", "-t", "60")
        assert "gracefully shutting down" in log(host, "nginx"), "SIGQUIT lets nginx finish its answers"


def test_postgres(host: Host, net: Network, layout: Path) -> None:
    host.create("postgres", f"oci:{layout}:postgres")

    def sql(text: str) -> str:
        psql = ("/usr/local/pgsql/psql", "-h", "127.0.0.1", "-U", "postgres", "-tAc", text)
        return host.lxc("attach", "postgres", "--", *psql, check=False).stdout.decode().strip()

    host.start("postgres")
    wait_for(lambda: sql("SELECT 6*7") == "42", "PostgreSQL to answer")
    sql("CREATE TABLE kept AS SELECT 'data' AS value")
    host.stop("postgres", "-t", "60")
    assert "database system is shut down" in log(host, "postgres")
    host.start("postgres")
    wait_for(lambda: sql("SELECT value FROM kept") == "data", "the data after the start")
    assert "not properly shut down" not in log(host, "postgres")
    assert (host.lxcpath / "postgres/oci-py/volumes/pgdata/PG_VERSION").exists()
    host.stop("postgres", "-t", "60")


def use_redis(host: Host, layout: Path) -> None:
    host.create("redis", f"oci:{layout}:redis")

    def ask(*words: str) -> str:
        return host.lxc("attach", "redis", "--", "redis-cli", *words, check=False).stdout.decode().strip()

    host.start("redis")
    wait_for(lambda: ask("PING") == "PONG", "Redis to answer")
    assert ask("SET", "key", "kept") == "OK"
    host.stop("redis", "-t", "60")
    assert "DB saved on disk" in log(host, "redis") and "bye bye" in log(host, "redis")
    host.start("redis")
    wait_for(lambda: ask("GET", "key") == "kept", "the data after the start")
    host.stop("redis", "-t", "60")


def test_redis(host: Host, layout: Path) -> None:
    use_redis(host, layout)


def test_redis_of_an_unprivileged_user(user_host: Host, layout: Path) -> None:
    with user_host.configuration.open("a") as file:
        file.write("lxc.net.0.flags = up\n")  # of the loopback interface: there is no other
    use_redis(user_host, layout)


def test_a_program_as_a_plain_user(host: Host, net: Network, layout: Path) -> None:
    host.create("web", f"oci:{layout}:web")
    host.start("web")
    url = f"http://{address(host, 'web')}:8000/"
    wait_for(lambda: http(net, url) == b"hello from the application\n", "the application to answer")
    assert host.attach("web", "stat", "-c", "%u:%g", "/proc/1").strip() == b"1000:1000"
    assert "GET / HTTP/1.1" in log(host, "web")
    # Python has no handler for SIGTERM, and the kernel does not let a signal without one end a process 1.
    host.stop("web", "-k")


def test_one_tree_for_all(host: Host, layout: Path, shared_store: Path) -> None:
    for name in CONFIGS:
        host.create(name, f"oci:{layout}:{name}")
    assert len(list((shared_store / "trees").iterdir()) + list((shared_store / "indexes").iterdir())) == 1
