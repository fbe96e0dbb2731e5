# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wrong is said in one line, leaves nothing behind, and the same call works when the cause is gone."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support import registry as registries
from tests.support.host import Host


def check(host: Host, url: str, status: int, *parts: str, options: tuple[str, ...] = ()) -> None:
    """The template fails with `status` and a message; so does lxc-create; and neither leaves anything."""
    done = direct.run(host, "bad", "--url", url, *options)
    assert done.returncode == status, done.stderr.decode()
    direct.check_message(done, *parts)
    assert direct.leftovers(host, "bad") == []
    direct.discard(host, "bad")
    done = host.create("bad", url, *options, check=False)
    assert done.returncode == 1
    direct.check_message(done, *parts)
    assert not (host.lxcpath / "bad").exists()


def check_repaired(host: Host, url: str, *options: str) -> None:
    """The same call works now, and so does its container."""
    host.create("bad", url, *options)
    assert host.execute("bad", "/bin/echo", "works") == b"works\n"


# --- the command line ------------------------------------------------------------------------------------------

USAGE = {
    "no URL": ((), "no image is named"),
    "two passwords": (("-u", "dir:/x", "--password", "a", "--password-file", "b", "--username", "c"), "only one of"),
    "password without user": (("-u", "dir:/x", "--password", "a"), "--username"),
    "user without password": (("-u", "dir:/x", "--username", "a"), "--password-file"),
    "missing password file": (("-u", "dir:/x", "--username", "a", "--password-file", "/nonexistent"), "/nonexistent"),
    "empty standard input": (("-u", "dir:/x", "--username", "a", "--password-stdin"), "standard input"),
    "unknown option": (("-u", "dir:/x", "--colour"), "--colour"),
    "abbreviated option": (("-u", "dir:/x", "--verb"), "--verb"),
    "unknown storage": (("-u", "dir:/x", "--storage", "tree"), "--storage"),
    "bad platform": (("-u", "dir:/x", "--platform", "arm64"), "platform"),
    "bad volume": (("-u", "dir:/x", "--volume", "relative:/x"), "--volume"),
    "bad tmpfs": (("-u", "dir:/x", "--tmpfs", "relative"), "--tmpfs"),
    "bad words": (("-u", "dir:/x", "--cmd", "'open"), "--cmd"),
    "missing env file": (("-u", "dir:/x", "--env-file", "/nonexistent"), "/nonexistent"),
    "bad env": (("-u", "dir:/x", "--env", "=x"), "--env"),
    "both DHCPs": (("-u", "dir:/x", "--dhcp", "--no-dhcp"), "--no-dhcp"),
    "unknown transport": (("-u", "ftp:/x"), "'ftp' is not a transport"),
    "no transport": (("-u", "nginx:1.27"), "docker://docker.io/library/nginx:1.27"),
    "http": (("-u", "https://example.org/image"), "does not say where the image is"),
    "credentials": (("-u", "docker://me:secret@127.0.0.1/x"), "credentials"),
    "upper case": (("-u", "docker://127.0.0.1/App"), "App"),
    "control character": (("-u", "oci:/x\x1b[31m"), "printed"),
    "relative store": (("-u", "dir:/x", "--store", ""), "store"),
}


@pytest.mark.parametrize(("options", "part"), USAGE.values(), ids=USAGE.keys())
def test_a_wrong_command_line(root_host: Host, options: tuple[str, ...], part: str) -> None:
    if part == "store":
        done = direct.run(root_host, "bad", *options[:2], environment={"LXC_OCI_PY_STORE": "relative"})
    else:
        done = direct.run(root_host, "bad", *options)
    assert done.returncode == 2, done.stderr.decode()
    direct.check_message(done, part)
    assert b"\x1b" not in done.stderr and b"secret" not in done.stderr
    assert direct.leftovers(root_host, "bad") == [] and not root_host.store.exists()


def test_lxc_create_says_what_the_template_said(any_host: Host) -> None:
    done = any_host.create("bad", "nginx", check=False)
    assert done.returncode == 1
    direct.check_message(done, "'nginx' does not say where the image is", "docker://docker.io/library/nginx")
    assert not (any_host.lxcpath / "bad").exists()


def test_not_under_lxc(root_host: Host) -> None:
    done = root_host.run(root_host.template, "--url", "dir:/x", check=False)
    assert done.returncode == 2
    direct.check_message(done, "lxc-create -t oci-py")


def test_a_password_is_warned_about_and_shown_nowhere_else(root_host: Host, busybox: str) -> None:
    done = root_host.create("one", busybox, "--username", "me", "--password", "very-secret")
    assert done.stderr.count(b"warning: LXC writes --password into the container's configuration") == 1
    assert b"very-secret" not in done.stderr + done.stdout
    text = root_host.config("one")
    header, _, rest = text.partition("lxc.rootfs.path")
    assert "very-secret" in header and "very-secret" not in rest  # LXC's own header has it, as was said
    files = subprocess.run(["grep", "-rl", "very-secret", str(root_host.lxcpath), str(root_host.store)],
                           capture_output=True, check=False)  # fmt: skip
    assert files.stdout.decode().split() == [str(root_host.lxcpath / "one/config")]


# --- the image -------------------------------------------------------------------------------------------------


def test_a_missing_layout(any_host: Host, place: Path) -> None:
    url = f"oci:{place}/image:latest"
    check(any_host, url, 4, f"{place}/image")
    images.write_layout(place / "image", {"latest": images.busybox_image()})
    check_repaired(any_host, url)


def test_a_missing_tag_of_a_layout(any_host: Host, place: Path) -> None:
    images.write_layout(place / "image", {"1.0": images.busybox_image()})
    url = f"oci:{place}/image:latest"
    check(any_host, url, 4, "latest", "1.0")
    images.write_layout(place / "image", {"latest": images.busybox_image()})
    check_repaired(any_host, url)


def blob_path(layout: Path, content: bytes) -> Path:
    return layout / "blobs" / images.digest(content).replace(":", "/")


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[:-100], "bytes before the"),
    "longer": (lambda content: content + b"x", "is longer than"),
    # The decompressor notices this, but the digest says what is the matter.
    "changed": (
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        "layer 2 has digest sha256:",
    ),
    "empty": (lambda content: b"", "bytes before the"),
}


@pytest.mark.parametrize("storage", ["auto", "flat"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layer(root_host: Host, place: Path, damage: str, storage: str) -> None:
    check_damaged_layer(root_host, place, damage, storage)


def test_a_damaged_layer_of_a_users_image(user_host: Host, place: Path) -> None:
    check_damaged_layer(user_host, place, "changed", "auto")


def check_damaged_layer(host: Host, place: Path, damage: str, storage: str) -> None:
    made = images.busybox_image({}, images.layer(images.file("second", os.urandom(3000))))
    layout = place / "image"
    images.write_layout(layout, {"latest": made})
    url, path = f"oci:{layout}:latest", blob_path(layout, made.layers[1].blob)
    change, part = DAMAGES[damage]
    path.write_bytes(change(made.layers[1].blob))
    check(host, url, 5, "layer 2", part, options=("--storage", storage))
    path.write_bytes(made.layers[1].blob)
    check_repaired(host, url, "--storage", storage)


@pytest.mark.parametrize("part", ["manifest", "configuration"])
def test_a_damaged_document(root_host: Host, place: Path, part: str) -> None:
    made = images.busybox_image()
    layout = place / "image"
    images.write_layout(layout, {"latest": made})
    content = getattr(made, part)
    path = blob_path(layout, content)
    path.write_bytes(content.replace(b"sha256:", b"sha256:", 1)[:-1] + b" ")
    check(root_host, f"oci:{layout}:latest", 5, "digest" if part == "configuration" else "manifest")
    path.write_bytes(content)
    check_repaired(root_host, f"oci:{layout}:latest")


def wrong_diff_id() -> images.Image:
    good = images.layer(images.file("a", "b"))
    return images.Image([images.busybox_rootfs(), images.Layer(good.blob, good.media_type, images.digest(b"else"))])


REFUSED: dict[str, tuple[Callable[[], images.Image], int, tuple[str, ...]]] = {
    "layer media type": (
        lambda: images.busybox_image({}, images.layer(images.file("a"), media_type="application/x-cpio")),
        7,
        ("layer 2", "application/x-cpio"),
    ),
    "schema 1": (
        lambda: images.Image(raw_manifest=images.dump({"schemaVersion": 1, "fsLayers": [], "history": []})),
        5,
        ("schema 1",),
    ),
    "artifact": (
        lambda: images.Image(members={"config": images.descriptor("application/vnd.cncf.helm.config.v1+json", b"{ }")}),
        7,
        ("helm",),
    ),
    "DiffID": (wrong_diff_id, 5, ("layer 2", "DiffID")),
    "missing DiffIDs": (
        lambda: images.busybox_image({}, document={"rootfs": {"type": "layers", "diff_ids": []}}),
        5,
        ("DiffIDs",),
    ),
    "rootfs type": (lambda: images.busybox_image({}, document={"rootfs": {"type": "windows"}}), 5, ("windows",)),
    "another platform": (lambda: images.busybox_image({}, platform="linux/s390x"), 5, ("s390x", "--platform")),
    "another system": (lambda: images.busybox_image({}, platform="windows/amd64"), 7, ("windows",)),
    "not JSON": (lambda: images.Image(raw_manifest=b"<html>captive portal</html>"), 5, ("JSON",)),
    "configuration not JSON": (lambda: images.busybox_image({}, raw_config=b"{"), 5, ("JSON",)),
    "wrong types": (lambda: images.busybox_image({"Env": "PATH=/bin"}), 5, ("Env",)),
    "unknown user": (lambda: images.busybox_image({"User": "nobody-knows"}), 5, ("nobody-knows", "--user")),
    "stop signal": (lambda: images.busybox_image({"StopSignal": "SIGNONE"}), 5, ("SIGNONE",)),
    "no tar": (lambda: images.busybox_image({}, images.layer(b"\x01" * 4096)), 5, ("layer 2",)),
    "no gzip": (
        lambda: images.busybox_image({}, images.Layer(b"not gzip at all", images.TAR + "+gzip", images.digest(b""))),
        5,
        ("layer 2",),
    ),
    "encrypted": (
        lambda: images.busybox_image({}, images.layer(images.file("a"), media_type=images.TAR + "+encrypted")),
        5,
        ("encrypted",),
    ),
    "no command": (lambda: images.Image([images.layer(images.file("a"))], {}), 5, ("--entrypoint",)),
}


@pytest.mark.parametrize(("make", "status", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_image(
    root_host: Host, place: Path, make: Callable[[], images.Image], status: int, parts: tuple[str, ...]
) -> None:
    images.write_layout(place / "image", {"latest": make()})
    url = f"oci:{place}/image:latest"
    check(root_host, url, status, *parts)
    images.write_layout(place / "image", {"latest": images.busybox_image()})
    check_repaired(root_host, url)


def test_what_is_refused_after_unpacking_leaves_no_rootfs(any_host: Host, place: Path) -> None:
    images.write_layout(place / "image", {"latest": images.busybox_image({"User": "nobody-knows"})})
    check(any_host, f"oci:{place}/image:latest", 5, "nobody-knows", options=("--storage", "flat"))


def test_an_id_outside_the_map_is_named_with_its_file(user_host: Host, place: Path) -> None:
    count = direct.ids(user_host, "u")[1]
    layer = images.layer(images.directory("srv"), images.file("srv/far", uid=count + 5))
    images.write_layout(place / "image", {"latest": images.busybox_image({}, layer)})
    url = f"oci:{place}/image:latest"
    for storage in ("auto", "flat"):
        check(user_host, url, 5, "srv/far", str(count + 5), options=("--storage", storage))
    images.write_layout(place / "image", {"latest": images.busybox_image({})})
    check_repaired(user_host, url)


def test_a_user_outside_the_map_is_refused(user_host: Host, place: Path) -> None:
    count = direct.ids(user_host, "u")[1]
    images.write_layout(place / "image", {"latest": images.busybox_image({"User": str(count + 1)})})
    check(user_host, f"oci:{place}/image:latest", 5, str(count + 1))


# --- the registry ----------------------------------------------------------------------------------------------


def test_an_unreachable_registry(any_host: Host, tmp_path: Path) -> None:
    port = registries.free_port()
    url = f"docker://127.0.0.1:{port}/team/app:1"
    done = direct.run(any_host, "bad", "--url", url, "--insecure", environment={"LXC_OCI_PY_LIMITS": "retries=1"})
    assert done.returncode == 3
    direct.check_message(done, f"127.0.0.1:{port}")
    assert direct.leftovers(any_host, "bad") == []


@pytest.mark.parametrize("missing", ["tag", "repository", "digest"])
def test_what_the_registry_does_not_have_is_named(root_host: Host, registry: registries.Registry, missing: str) -> None:
    made = images.busybox_image({"Labels": {"test": missing}})
    registry.push("bad/other", "1", images.busybox_image())
    selector = f"@{made.digest}" if missing == "digest" else ":2.0"
    repository = f"bad/{missing}"
    if missing != "repository":
        registry.push(repository, "1.0", images.busybox_image())
    url = f"docker://{registry.host}/{repository}{selector}"
    check(root_host, url, 4, selector[1:], options=("--insecure",))
    registry.push(repository, "2.0", made)
    check_repaired(root_host, url, "--insecure")


def test_plain_http_is_not_tried_unasked(root_host: Host, registry: registries.Registry) -> None:
    registry.push("bad/http", "1", images.busybox_image())
    url = f"docker://{registry.host}/bad/http:1"
    before = registry.requests("GET")
    check(root_host, url, 3, "--insecure")
    assert registry.requests("GET") == before
    check_repaired(root_host, url, "--insecure")


# --- the host --------------------------------------------------------------------------------------------------


def test_a_program_that_is_missing_is_named_with_its_package(root_host: Host, place: Path) -> None:
    need.program("skopeo")
    direct.prepare(root_host, "bad")
    command = direct.command(root_host, "bad", "--url", "docker-daemon:app:1")
    assert command[:2] == ["unshare", "-m"]
    hide = 'mount --bind /dev/null "$(command -v skopeo)" && exec "$@"'
    done = root_host.run("unshare", "-m", "/bin/sh", "-c", hide, "sh", *command[2:], check=False)
    assert done.returncode == 7, done.stderr.decode()
    direct.check_message(done, "skopeo", "apt install skopeo")
    assert direct.leftovers(root_host, "bad") == []


def test_a_store_that_others_can_change(root_host: Host, busybox: str, place: Path) -> None:
    loose = place / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    check(root_host, busybox, 2, str(loose), options=("--store", f"{loose}/store"))
    loose.chmod(0o755)
    check_repaired(root_host, busybox, "--store", f"{loose}/store")


def test_a_store_of_somebody_else(root_host: Host, busybox: str, place: Path) -> None:
    theirs = place / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 1000, 1000)
    check(root_host, busybox, 2, str(theirs), options=("--store", str(theirs)))
    os.chown(theirs, 0, 0)
    check_repaired(root_host, busybox, "--store", str(theirs))


def test_a_store_of_a_newer_program(root_host: Host, busybox: str) -> None:
    root_host.create("one", busybox)
    (root_host.store / "version").write_text("99\n")
    check(root_host, busybox, 2, "99", "upgrade")
    (root_host.store / "version").write_text("1\n")
    check_repaired(root_host, busybox)


def test_a_volume_that_is_missing(root_host: Host, busybox: str, place: Path) -> None:
    option = ("--volume", f"{place}/data:/data")
    check(root_host, busybox, 2, f"{place}/data", options=option)
    (place / "data").mkdir()
    check_repaired(root_host, busybox, *option)


def test_a_user_who_cannot_reach_the_image(user_host: Host, place: Path) -> None:
    images.write_layout(place / "image", {"latest": images.busybox_image()})
    (place / "image").chmod(0o700)
    check(user_host, f"oci:{place}/image:latest", 4, f"{place}/image", "ids of its own")
    (place / "image").chmod(0o755)
    check_repaired(user_host, f"oci:{place}/image:latest")


@pytest.mark.parametrize("full", ["bytes", "inodes"])
@pytest.mark.parametrize("where", ["store", "container"])
def test_a_full_file_system(root_host: Host, place: Path, full: str, where: str) -> None:
    files = [images.file(f"many/{number}", b"x") for number in range(400)]
    large = images.file("large", os.urandom(5 << 20))
    made = images.busybox_image({}, images.layer(*(files if full == "inodes" else [large]), compression=""))
    images.write_layout(place / "image", {"latest": made})
    url = f"oci:{place}/image:latest"
    make = ("mkfs.ext4", "-q", "-O", "^has_journal", "-N", "450" if full == "inodes" else "1024", "-m", "0")
    own, elsewhere = root_host.store, root_host.lxcpath
    with direct.file_system(place, 6 if full == "bytes" else 16, make) as mount_point:
        options: tuple[str, ...] = ()
        try:
            if where == "store":
                root_host.store = mount_point / "store"
            else:
                root_host.lxcpath = mount_point / "lxc"
                root_host.lxcpath.mkdir()
                options = ("--storage", "flat")
            before = os.statvfs(mount_point)
            check(root_host, url, 6, "space", options=options)
            after = os.statvfs(mount_point)
            # What is left is the store without the image; a kept copy of what came is no leftover.
            assert before.f_ffree - after.f_ffree < 30
        finally:
            root_host.store, root_host.lxcpath = own, elsewhere
    check_repaired(root_host, url, *options)
