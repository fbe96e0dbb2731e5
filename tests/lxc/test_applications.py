# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real servers from Debian's packages, made into images as such images are: started, asked, stopped, started again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bridge, debian, direct
from tests.support import host as hosts
from tests.support import image as images
from tests.support.bridge import Network, wait_for
from tests.support.host import Host
from tests.support.launch import CHECKOUT, INSTALLED

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOOKS = "/usr/share/lxc/hooks"
COMMAND = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]  # of PostgreSQL
CONFIGS = {
    "nginx": {
        "Entrypoint": ["nginx", "-g", "daemon off; error_log /dev/stderr notice;"],
        "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}},
    },
    "postgres": {
        "Entrypoint": ["/usr/local/pgsql/postgres", "-D", "/pgdata"],
        "Cmd": COMMAND,
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


# Later images: the application, what changes of its configuration, and what lies in a second layer.
REVISIONS = {
    "nginx-2": (
        "nginx",
        {},
        {
            "etc/nginx/nginx.conf": "events {}\nhttp { add_header Configured image; server { root /var/www/html; } }\n",
            "var/www/html/index.nginx-debian.html": "the second page\n",
        },
    ),
    "postgres-2": ("postgres", {"Cmd": [*COMMAND, "-c", "work_mem=12MB"]}, {"etc/revision": "2\n"}),
    "postgres-3": ("postgres", {"Cmd": [*COMMAND, "-c", "work_mem=13MB"]}, {"etc/revision": "3\n"}),
}


@pytest.fixture(scope="module")
def layout(layouts: Path) -> Path:
    """One OCI layout with the images of each application; all have the same first layer."""
    layer = images.layer(debian.applications().read_bytes(), compression="")
    path = layouts / "applications"
    made = {name: images.Image([layer], {"Env": [PATH], **config}) for name, config in CONFIGS.items()}
    for name, (of, change, files) in REVISIONS.items():
        second = images.layer(*(images.file(file, content) for file, content in files.items()))
        made[name] = images.Image([layer, second], {**(made[of].config or {}), **change})
    images.write_layout(path, made)
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


CLIENT = (
    "import sys, urllib.request as r; answer = r.urlopen(sys.argv[1], timeout=20);"
    "sys.stdout.buffer.write(bytes(answer.headers) + answer.read())"
)


def http(net: Network, url: str) -> bytes:
    """The headers and the body of what a server answers."""
    return net.run("/usr/bin/python3", "-IS", "-c", CLIENT, url, check=False).stdout


def http_inside(host: Host, name: str, url: str) -> bytes:
    """The same, asked from inside of the container."""
    return host.lxc("attach", name, "--", "/usr/bin/python3", "-IS", "-c", CLIENT, url, check=False).stdout


def test_nginx(host: Host, net: Network, layout: Path) -> None:
    host.create("nginx", f"oci:{layout}:nginx")
    for _ in range(2):
        host.start("nginx")
        url = f"http://{address(host, 'nginx')}/"
        wait_for(lambda url=url: b"Welcome to nginx" in http(net, url), "nginx to answer")
        host.stop("nginx", "-t", "60")
        assert "gracefully shutting down" in log(host, "nginx"), "SIGQUIT lets nginx finish its answers"


def update(host: Host, layout: Path, name: str, to: str) -> str:
    return host.oci("update", name, "-P", str(host.lxcpath), "--url", f"oci:{layout}:{to}").stdout.decode()


def answer(host: Host, net: Network, name: str) -> bytes:
    """What nginx in a container answers."""
    host.start(name)
    url = f"http://{address(host, name)}/"
    wait_for(lambda: http(net, url), "nginx to answer")
    found = http(net, url)
    host.stop(name, "-t", "60")
    return found


def test_nginx_is_updated_below_its_users_configuration(host: Host, net: Network, layout: Path) -> None:
    host.create("nginx", f"oci:{layout}:nginx")
    change = "sed -i 's/^http {/http { add_header Configured user;/' /etc/nginx/nginx.conf"
    host.execute("nginx", "sh", "-c", change)
    host.lxc("copy", "nginx", "-N", "copy")
    host.lxc("snapshot", "nginx")
    said = update(host, layout, "nginx", "nginx-2").splitlines()
    assert [line.split()[-9] for line in said if "the new image's differs" in line] == ["/etc/nginx/nginx.conf"]
    host.lxc("snapshot", "nginx")
    found = answer(host, net, "nginx")
    assert b"Configured: user" in found and found.endswith(b"\nthe second page\n")
    found = answer(host, net, "copy")
    assert b"Configured: user" in found and b"Welcome to nginx" in found
    for snapshot, page in (("snap0", b"Welcome to nginx"), ("snap1", b"the second page")):
        host.lxc("snapshot", "nginx", "-r", snapshot)
        found = answer(host, net, "nginx")
        assert b"Configured: user" in found and page in found


def sql(host: Host, text: str) -> str:
    psql = ("/usr/local/pgsql/psql", "-h", "127.0.0.1", "-U", "postgres", "-tAc", text)
    return host.lxc("attach", "postgres", "--", *psql, check=False).stdout.decode().strip()


def test_postgres(host: Host, net: Network, layout: Path) -> None:
    host.create("postgres", f"oci:{layout}:postgres")
    host.start("postgres")
    wait_for(lambda: sql(host, "SELECT 6*7") == "42", "PostgreSQL to answer")
    sql(host, "CREATE TABLE kept AS SELECT 'data' AS value")
    host.stop("postgres", "-t", "60")
    assert "database system is shut down" in log(host, "postgres")
    host.start("postgres")
    wait_for(lambda: sql(host, "SELECT value FROM kept") == "data", "the data after the start")
    assert "not properly shut down" not in log(host, "postgres")
    assert (host.lxcpath / "postgres/oci-py/volumes/pgdata/PG_VERSION").exists()
    host.stop("postgres", "-t", "60")


def test_postgres_keeps_its_data_through_updates(host: Host, net: Network, layout: Path) -> None:
    host.create("postgres", f"oci:{layout}:postgres")
    # Each image's own setting of work_mem shows whose command runs; the volume has one table, the rootfs the other.
    for number, memory in enumerate(("4MB", "12MB", "13MB", "12MB")):
        host.start("postgres")
        wait_for(lambda memory=memory: sql(host, "SHOW work_mem") == memory, "PostgreSQL of that image")
        if number == 0:
            host.attach("postgres", "install", "-d", "-o", "postgres", "-m", "700", "/srv/space")
            sql(host, "CREATE TABLESPACE aside LOCATION '/srv/space'")
            sql(host, "CREATE TABLE inside (step int)")
            sql(host, "CREATE TABLE outside (step int) TABLESPACE aside")
        for table in ("inside", "outside"):
            assert sql(host, f"SELECT string_agg(step::text, '') FROM {table}") == "012"[:number]
            sql(host, f"INSERT INTO {table} VALUES ({number})")
        host.stop("postgres", "-t", "60")
        said = log(host, "postgres")
        assert "database system is shut down" in said and "not properly shut down" not in said
        if number < 2:
            update(host, layout, "postgres", f"postgres-{number + 2}")
        elif number == 2:
            host.oci("rollback", "postgres", "-P", str(host.lxcpath))
    assert list((direct.upper(host, "postgres") / "srv/space").iterdir())
    assert (host.lxcpath / "postgres/oci-py/volumes/pgdata/PG_VERSION").exists()


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


def test_an_unprivileged_user_runs_them(user_host: Host, layout: Path) -> None:
    with user_host.configuration.open("a") as file:
        file.write("lxc.net.0.flags = up\n")  # of the loopback interface: there is no other
    use_redis(user_host, layout)
    for name in ("nginx", "postgres", "web"):
        user_host.create(name, f"oci:{layout}:{name}")
        user_host.start(name)
    wait_for(lambda: b"Welcome to nginx" in http_inside(user_host, "nginx", "http://127.0.0.1/"), "nginx to answer")
    wait_for(lambda: sql(user_host, "SELECT 6*7") == "42", "PostgreSQL to answer")
    web = "http://127.0.0.1:8000/"
    wait_for(lambda: http_inside(user_host, "web", web).endswith(b"\nhello from the application\n"), "the application")
    for name in ("nginx", "postgres"):
        user_host.stop(name, "-t", "60")
    user_host.stop("web", "-k")
    assert "gracefully shutting down" in log(user_host, "nginx")
    assert "database system is shut down" in log(user_host, "postgres")


def test_a_program_as_a_plain_user(host: Host, net: Network, layout: Path) -> None:
    host.create("web", f"oci:{layout}:web")
    host.start("web")
    url = f"http://{address(host, 'web')}:8000/"
    wait_for(lambda: http(net, url).endswith(b"\nhello from the application\n"), "the application to answer")
    assert host.attach("web", "stat", "-c", "%u:%g", "/proc/1").strip() == b"1000:1000"
    assert "GET / HTTP/1.1" in log(host, "web")
    # Python has no handler for SIGTERM, and the kernel does not let a signal without one end a process 1.
    host.stop("web", "-k")


def test_one_tree_for_all(host: Host, layout: Path, shared_store: Path) -> None:
    for name in CONFIGS:
        host.create(name, f"oci:{layout}:{name}")
    (parts,) = {tuple(direct.inspect(host, name)["parts"]) for name in CONFIGS}
    assert len(parts) == 1
