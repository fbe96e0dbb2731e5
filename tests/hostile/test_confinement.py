# SPDX-License-Identifier: LGPL-2.1-or-later
"""Confinement by construction: what the source may not contain, read from its syntax trees.

A name of an image reaches the kernel by the descriptor of its parent directory and without being followed, in
kernel/root.py and the applier's own few modules; programs are started in one module; another has the system calls.
(Rows U01 to U16, U47, U48, C06 and C11 to C13 have tests of their own; these here keep new code from needing them.)
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci import create, template
from lxc_oci.container.overrides import Overrides, VolumeOption
from lxc_oci.errors import RefusedError
from lxc_oci.image import reference
from lxc_oci.kernel import run
from lxc_oci.source.open import SourceOptions

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "lxc_oci"
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), name) for name, path in MODULES.items()}
HOOKS = [path for path in sorted((CHECKOUT / "hooks").iterdir()) if path.read_bytes().startswith(b"#!/usr/bin/python3")]

CTYPES = {"kernel/syscalls.py"}
SUBPROCESS = {"kernel/run.py"}
# The child without the host's root, and our own program started anew through lxc-usernsexec.
PROCESSES = {"kernel/confine.py": "os.fork", "verbs/namespace.py": "os.execve"}
# Extraction with a history (CVE-2007-4559 to CVE-2026-19672), formats that run code, globs, and openers of URLs.
NEVER = {
    "tarfile",
    "zipfile",
    "pickle",
    "marshal",
    "shelve",
    "glob",
    "urllib.request",
    "ftplib",
    "netrc",
    "multiprocessing",
}
EXCEPTIONS = {
    "store/marks.py": {"glob"},  # one pattern below /sys
    "store/prune.py": {"glob"},  # names that we gave
    "source/hostfiles.py": {"shutil"},  # copies the administrator's own files
    "source/skopeo.py": {"shutil"},  # removes a temporary layout, which is blobs by digest
}
STARTERS = re.compile(r"(system|popen|startfile|exec[lv]p?e?|spawn[lv]p?e?|posix_spawnp?|fork|forkpty)\Z")
PATH_CALLS = re.compile(
    r"(access|chdir|l?chmod|l?chown|chroot|[gs]etxattr|link|listdir|l?listxattr|l?stat|makedirs|mkdir|mkfifo|mknod|open|"
    r"readlink|remove|removedirs|removexattr|renames?|replace|rmdir|scandir|statvfs|symlink|truncate|unlink|utime|walk)\Z"
)
# What handles names of an image: these stages, and what else has a Root, which the test below finds.
STAGES = ("layer/", "container/", "rootfs/")
OTHERS = {
    "changes.py",
    "commit.py",
    "convert.py",
    "kernel/root.py",
    "sametree.py",
    "store/health.py",
    "store/trees.py",
    "switch.py",
    "template.py",
}
# The first argument of each call there that takes a path, or descriptor, and no dir_fd: never a name of an image.
ARGUMENTS = {
    # The system's own files.
    "container/environment.py": {"place"},  # a directory of the host, judged
    "container/guestfiles.py": {"path"},  # the host's resolv.conf
    "container/lxcconfig.py": {"path"},  # a configuration of LXC
    "container/lxcpath.py": {"path"},
    "container/lxcversion.py": {"'/usr/bin/lxc-start'", "f'/usr/lib/{multiarch}/liblxc.so.1'"},
    "container/overrides.py": {"path"},  # --env-file
    "container/running.py": {"_SOCKETS"},
    # The container's own directory.
    "container/generation.py": {
        "fd", "path", "os.path.join(container, DIRECTORY)", "os.path.join(container, 'config')",
        "container", "os.path.join(container, name)",  # a temporary file of ours
    },
    "container/guest.py": {"home", "host.directory", "os.path.dirname(path)"},
    "container/provenance.py": {
        "directory",
        "os.path.join(container, DIRECTORY, 'id')",
        "os.path.join(container, DIRECTORY, 'options.json')",
        "os.path.join(container, directory, name)",
        "os.path.join(container, generation.directory(number), 'image.json')",
    },
    "container/volumes.py": {"bind.host", "home", "path", "source", "temporary"},  # source: a descriptor
    # Descriptors, and image files of the store.
    "layer/attributes.py": {"fd", "target", "path"},  # path: /proc/self/fd/N of an O_PATH descriptor
    "layer/difflayer.py": {"fd", "_opened(root, path, flags)"},  # descriptors that Root opened
    "layer/directories.py": {"self.fd(directory)"},
    "layer/displaced.py": {"fd", "os.open(base, _FILE, dir_fd=fd)"},
    "layer/erofs.py": {"mounted", "path", "directory", "place"},  # place: one component below /proc/self/fd/N
    "layer/objects.py": {"fd", "path"},  # path: /proc/self/fd/N of an O_PATH descriptor
    "layer/rebuild.py": {"fd"},
    "layer/record.py": {"here"},
    "layer/squashfs.py": {"path"},
    "layer/unpack.py": {"self._root.fd"},
    "layer/verity.py": {"path"},
    "layer/whiteout.py": {"directories.fd(directory)"},
    # The container's directory, and what we make in it and in the store: the upper directory and the like by name, what
    # is in them by descriptor.
    "commit.py": {"made", "path", "tar"},  # files of a layer that is made
    "convert.py": {
        "flat", "made", "path", "upper", "os.path.dirname(path)", "os.path.dirname(upper)",
        "os.path.join(container.directory, existing.ROOTFS)",
    },
    "kernel/root.py": {"path", "place", "fd", "f'/proc/self/fd/{place}'"},  # path, place: ours; the last: judged before
    "rootfs/base.py": {
        "path", "place", "upper", "work", "os.path.dirname(target)", "os.path.join(container, directory)",
        "os.path.join(stage.path, 'rootfs')",
    },
    "rootfs/choose.py": {"path", "HOOK", "_APPARMOR", "_PROFILES", "'/proc/self/mountinfo'"},
    "rootfs/flat.py": {"rootfs", "root.fd"},
    "rootfs/layers.py": {  # blobs
        "directory", "path", "files[digest]", "store.path",
        "self._store.path if self._store is not None else directory",
    },
    "rootfs/lxcoverlay.py": {"delta", "work", "os.path.join(container, 'overlay')"},
    "rootfs/mounted.py": {"upper"},
    "rootfs/overlay.py": {"lower", "upper", "path"},
    "sametree.py": {"fd", "one.open(path, flags)", "other.open(path, flags)"},  # descriptors that Root opened
    "store/health.py": {
        "path", "store.at(part)", "store.at('trees', name, 'record')", "store.at('indexes', name, 'facts.json')",
        "store.at(kind, name, DAMAGED)",
    },
    "store/trees.py": {
        "name", "root.fd", "f'{staged}/record'", "f'{staged}/rootfs'", "os.path.join(directory, 'facts.json')",
        "store.at('trees', name, 'facts.json')", "store.at('trees', name, 'record')",
    },
    "switch.py": {"directory", "os.path.join(container.directory, 'config')"},
    "template.py": {"above", "path"},  # the container's directory and configuration
}  # fmt: skip


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call by its dotted name, as far as it has one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def by_path(tree: ast.AST) -> Iterator[ast.Call]:
    """Each call that takes a path, or a descriptor in its place, and none beside it."""
    for function, call in calls(tree):
        takes_path = function == "open" or (function.startswith("os.") and PATH_CALLS.match(function[3:]))
        if takes_path and not {"dir_fd", "src_dir_fd"} & {keyword.arg for keyword in call.keywords}:
            yield call


def argument(call: ast.Call) -> str:
    """The first argument of a call."""
    return ast.unparse(call.args[0]) if call.args else ""


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(TREES) > 80 and len(HOOKS) >= 3


def test_system_calls_programs_and_processes_have_one_module_each() -> None:
    for name, tree in TREES.items():
        modules = imported(tree)
        assert "ctypes" not in modules or name in CTYPES, name
        assert "subprocess" not in modules or name in SUBPROCESS, name
        assert modules & NEVER <= EXCEPTIONS.get(name, set()), name
        for function, call in calls(tree):
            if function.startswith("os.") and STARTERS.match(function[3:]):
                assert function == PROCESSES.get(name), f"{name}:{call.lineno}: {function}"


def test_nothing_evaluates_text() -> None:
    for name, tree in TREES.items():
        for function, call in calls(tree):
            assert function not in ("eval", "exec", "compile", "__import__"), f"{name}:{call.lineno}"
            keywords = {keyword.arg for keyword in call.keywords}
            assert "shell" not in keywords and "preexec_fn" not in keywords, f"{name}:{call.lineno}"


def test_u47_programs_have_an_absolute_path() -> None:
    """Checked by the one module that starts them, whoever calls it."""
    for start in (run.run, run.Stream):
        with pytest.raises(ValueError, match="absolute"):
            start(["true"], timeout=10)


def test_c11_names_of_an_image_go_by_the_descriptor_of_their_parent() -> None:
    strange = []
    for name, tree in TREES.items():
        if not name.startswith(STAGES) and name not in OTHERS:
            continue
        for call in by_path(tree):
            if argument(call) not in ARGUMENTS.get(name, set()):
                strange.append(f"{name}:{call.lineno}: {ast.unparse(call)[:100]}")
    assert not strange, "a path is opened as text; if an image cannot have chosen it, add it to ARGUMENTS and say why"


# As ARGUMENTS, for the hook that copies a container: its directories, files in them that are ours, and descriptors.
CLONED = {
    "'/dev/null'", "candidate", "directory", "fd", "new", "path", "source", "staged", "store", "temporary",
    "f'/proc/self/fd/{place}'", "f'{candidate}/{OURS}'", "f'{new}/{upper}'", "f'{new}/{work}'", "f'{source}/{work}'",
    "f'{store}/containers'", "os.open(temporary, NEW, 384, dir_fd=directory)",
}  # fmt: skip


def test_c11_the_hook_that_copies_goes_by_descriptors_too() -> None:
    tree = ast.parse((CHECKOUT / "hooks/oci-py-clone").read_text())
    assert [f"{call.lineno}: {ast.unparse(call)[:100]}" for call in by_path(tree) if argument(call) not in CLONED] == []


def test_c11_who_can_reach_into_a_root_is_looked_at() -> None:
    """A module without a Root that removes no tree and calls no openat2 knows no name of an image's file."""
    reaching = {"lxc_oci.kernel.root.Root", "lxc_oci.kernel.root.remove_tree"}
    found = set()
    for name, tree in TREES.items():
        if imported(tree) & reaching or any(function.endswith("openat2") for function, _ in calls(tree)):
            found.add(name)
    # They remove directories that have our own names, with all that is in them; syscalls.py has openat2 itself.
    removing = {"create.py", "store/helper.py", "store/home.py", "kernel/syscalls.py"}
    assert {name for name in found if not name.startswith(STAGES)} - removing <= OTHERS


def test_u11_the_last_component_is_never_followed() -> None:
    """os.link follows by default since Python 3.14 (CVE-2021-32760), os.stat, chown and utime always did."""
    for name, tree in TREES.items():
        for function, call in calls(tree):
            if function not in ("os.link", "os.stat", "os.chown", "os.utime", "os.access"):
                continue
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if function == "os.link" or {"dir_fd", "src_dir_fd"} & keywords.keys():
                assert keywords.get("follow_symlinks") == "False", f"{name}:{call.lineno}: {ast.unparse(call)[:100]}"


def test_u04_what_is_opened_beside_a_descriptor_is_no_link() -> None:
    for name, tree in TREES.items():
        constants = {
            target.id: ast.unparse(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for function, call in calls(tree):
            if function == "os.open" and any(keyword.arg == "dir_fd" for keyword in call.keywords):
                flags = ast.unparse(call.args[1])
                if ast.unparse(call.args[0]) == "b'..'":
                    continue  # the parent of a descriptor, whose identity is compared
                text = constants.get(flags, flags)
                assert "os.O_NOFOLLOW" in text, f"{name}:{call.lineno}: {ast.unparse(call)[:100]}"


def test_u16_nothing_is_removed_or_walked_by_path() -> None:
    for name, tree in TREES.items():
        modules = imported(tree)
        # rmtree, copytree, chown: all by path
        assert "shutil" not in modules or "shutil" in EXCEPTIONS.get(name, set()), name
        for function, call in calls(tree):
            if function == "os.walk" and name == "imagewriter.py":
                continue  # a layout of our own making, which holds blobs by their digests
            assert function not in ("os.walk", "os.removedirs", "os.renames"), f"{name}:{call.lineno}"


@pytest.mark.parametrize("path", HOOKS, ids=lambda path: path.name)
def test_c15_hooks_start_without_the_environment_and_site(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#!/usr/bin/python3 -IS\n")
    tree = ast.parse(text)
    modules = imported(tree)
    assert not modules & (NEVER | {"subprocess", "shutil", "tempfile", "lxc_oci"}), modules
    for function, call in calls(tree):
        assert function not in ("os.system", "os.popen", "eval", "exec"), call.lineno
        if function in ("os.posix_spawn", "os.posix_spawnp", "os.execve"):
            assert len(call.args) == 3 and "os.environ," not in ast.unparse(call), call.lineno


def test_c06_hooks_and_templates_use_no_shell_on_names() -> None:
    for path in (CHECKOUT / "hooks").iterdir():
        text = path.read_text()
        assert "shell=True" not in text
        if text.startswith("#!/bin/sh"):
            for line in text.splitlines():
                code = line.partition(" #")[0]
                unquoted = re.sub(r'"[^"]*"', "", code)
                if not re.match(r"\s*(#|case |PATH=|directory=)", line):
                    assert "$" not in unquoted, f"{path.name}: {line}"
            assert "\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in text


def request(directory: Path, host: str) -> create.Request:
    return create.Request(
        reference=reference.parse("dir:/x"),
        name="c",
        directory=str(directory),
        rootfs=str(directory / "rootfs"),
        source=SourceOptions(temporary=str(directory)),
        overrides=Overrides(volumes=(VolumeOption(host, "/x"),)),
        configuration=(),
    )


BAD_ANSWERS = {
    "another hook": "lxc.hook.pre-start = /bin/touch",
    "arguments for a hook": "lxc.hook.clone = /usr/share/lxc/hooks/oci-py-clone; touch /x",
    "another include": "lxc.include = /tmp/x.conf",
    "an include above": "lxc.include = /usr/share/lxc/config/../../x.conf",
    "another rootfs": "lxc.rootfs.path = dir:/",
    "the host's root": "lxc.mount.entry = / mnt none bind 0 0",
    "above": "lxc.mount.entry = {directory}/../x mnt none bind 0 0",
    "just above": "lxc.mount.entry = {directory}/.. mnt none bind 0 0",
    "a link that it made": "lxc.mount.entry = {directory}/link mnt none bind 0 0",
    "below that link": "lxc.mount.entry = {directory}/link/etc mnt none bind 0 0",
    "escaped dots": "lxc.mount.entry = {directory}/\\056\\056 mnt none bind 0 0",
    "a log elsewhere": "lxc.console.logfile = /etc/passwd",
    "a log through a link": "lxc.console.logfile = {directory}/link/passwd",
    "a log that is a link": "lxc.console.logfile = {directory}/log",
    "an fstab": "lxc.mount.fstab = {directory}/fstab",
    "a key that is not ours": "lxc.apparmor.profile = unconfined",
    "a variable of the host": "lxc.environment = AWS_SECRET_ACCESS_KEY",
    "a variable for hooks": "lxc.environment = LD_PRELOAD={directory}/rootfs/x.so",
    "a file for hooks": "lxc.environment = ANYTHING={directory}/rootfs/x",
    "a writable /proc": "lxc.mount.auto = proc:rw sys:rw cgroup:rw",
    "a descriptor as directory": "lxc.init.cwd = /proc/self/fd/8",
    "a link to a descriptor as directory": "lxc.init.cwd = /to-fd",
    "above the root as directory": "lxc.init.cwd = /../..",
    "memory outside": "lxc.mount.entry = tmpfs ../.. tmpfs nosuid,nodev,mode=1777 0 0",
    "memory over /proc": "lxc.mount.entry = tmpfs proc tmpfs nosuid,nodev,mode=1777 0 0",
    "an overlay of the host": "lxc.mount.entry = tmpfs x overlay lowerdir=/,upperdir=/x,workdir=/y 0 0",
    "securityfs": "lxc.mount.entry = none sys/kernel/security securityfs rw 0 0",
    "options of another kind": "lxc.mount.entry = {directory}/oci-py x none bind,optional,create=file 0 0",
    "options of the root": "lxc.rootfs.options = userxattr",
    "a large log": "lxc.console.size = 4GB",
}  # fmt: skip


@pytest.mark.parametrize("line", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_c07_the_confined_process_is_not_believed(tmp_path: Path, line: str) -> None:
    """It has read the image as root of the container, and answers with lines for the host's LXC."""
    directory = tmp_path / "c"
    (directory / "rootfs").mkdir(parents=True)
    (directory / "link").symlink_to("/")
    (directory / "rootfs/to-fd").symlink_to("/proc/self/fd/8")
    (directory / "log").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError):
        template._check_answer(f"{line}\n".format(directory=directory).encode(), request(directory, "/srv"))


def test_c07_what_creates_write_is_believed(tmp_path: Path) -> None:
    directory = tmp_path / "a b"
    (directory / "oci-py").mkdir(parents=True)
    (directory / "rootfs/srv").mkdir(parents=True)
    quoted = str(directory).replace(" ", "\\040")
    lines = (
        "lxc.hook.clone = /usr/share/lxc/hooks/oci-py-clone",
        "lxc.include = /usr/share/lxc/config/common.conf",
        f"lxc.mount.entry = {quoted}/oci-py/guest .oci-py none bind,ro,nosuid,nodev,create=dir 0 0",
        "lxc.mount.entry = /srv/data x none rbind 0 0",
        f"lxc.mount.entry = {quoted}/oci-py/volume data none bind 0 0",
        "lxc.mount.entry = tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,create=dir,size=64m 0 0",
        "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed",
        "lxc.init.cwd = /srv/a b",
        "lxc.signal.halt = SIGTERM",
        f"lxc.console.logfile = {directory}/console.log",
        "lxc.environment = A=b",
    )
    template._check_answer("".join(f"{line}\n" for line in lines).encode(), request(directory, "/srv/data"))


def test_the_checks_see_what_they_look_for() -> None:
    """A test that reads source must not pass because it reads wrongly."""
    tree = ast.parse("import os\nos.open(name, os.O_RDONLY)\nos.link(a, b, dst_dir_fd=1)\nos.system('x')")
    found = dict(calls(tree))
    assert set(found) == {"os.open", "os.link", "os.system"} and STARTERS.match("system")
    assert imported(ast.parse("from os import path as p, open\nimport a.b")) == {"os", "os.path", "os.open", "a.b"}
    for name, tree in TREES.items():
        assert not any(module.startswith("os.") and module != "os.path" for module in imported(tree)), name
    assert os.sep == "/"
