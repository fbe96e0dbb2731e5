# SPDX-License-Identifier: LGPL-2.1-or-later
"""A layer of this machine's own Debian with real servers in it, made once by mmdebstrap and kept in the cache."""

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from tests.support import need
from tests.support.trixie import _apt as apt

_PACKAGES = ("nginx", "postgresql", "redis-server", "python3")
# What no test needs, a third of it all; PostgreSQL compiles queries only where it finds LLVM.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/lib/*/libLLVM*")
# As the images of these applications are: a user, a directory of data that has its content, no init that starts.
_FINISH = """\
set -eu
useradd -R "$1" -u 1000 -d /srv/app -s /bin/false app
mkdir -p "$1/srv/app" "$1/data" "$1/pgdata"
echo hello from the application > "$1/srv/app/index.html"
chown -R 1000:1000 "$1/srv/app"
chroot "$1" sh -ec '
    chown redis:redis /data
    chown postgres:postgres /pgdata
    chmod 700 /pgdata
    initdb=$(echo /usr/lib/postgresql/*/bin/initdb)
    setpriv --reuid=postgres --regid=postgres --init-groups "$initdb" -D /pgdata -A trust -E UTF8 --locale=C.UTF-8
    echo "host all all 0.0.0.0/0 trust" >> /pgdata/pg_hba.conf
    ln -s "${initdb%/*}" /usr/local/pgsql
    rm -rf /var/lib/postgresql/*
'
"""


def applications() -> Path:
    """The uncompressed tar of the layer, from the cache or made now (a minute, needs root and the Debian mirror)."""
    need.root()
    program = need.program("mmdebstrap")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(f"~{os.environ.get('SUDO_USER', 'root')}/.cache")
    cache = Path(base) / "lxc-oci-py"
    cache.mkdir(parents=True, exist_ok=True)
    mirror, options = apt()
    release = _release()
    key = hashlib.sha256("\n".join([release, mirror, *_PACKAGES, *_LEFT_OUT, *options, _FINISH]).encode()).hexdigest()[
        :16
    ]
    final = cache / f"applications-{key}.tar"
    with open(cache / "lock.applications", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        for old in cache.glob("applications-*"):
            old.unlink()
        partial = cache / f"partial.{os.getpid()}.tar"
        argv = [program, "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
        argv += [f"--aptopt={option}" for option in (*options, 'Apt::Install-Recommends "false"')]
        argv += [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
        argv += [f"--customize-hook={_FINISH}", release, str(partial), mirror]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode:
                need.missing(f"mmdebstrap failed: {done.stderr.decode()[-2000:]}")
            partial.rename(final)
        finally:
            partial.unlink(missing_ok=True)
    return final


def _release() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return "stable"
