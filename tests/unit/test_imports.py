# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directions of CONTRIBUTING's table of stages, and which modules alone may touch what."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lxc_oci"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]
# Never at the top of a module: not required, or paid for by every create that needs none of it.
LATE = {"isal", "zstandard", "cryptography", "compression"}
# What exactly these may import, anywhere.
ALONE = {
    "ctypes": {"lxc_oci/kernel/syscalls.py"},
    "subprocess": {"lxc_oci/kernel/run.py"},
    "orjson": {"lxc_oci/jsonio.py"},
    "ssl": {"lxc_oci/source/"},
    "http": {"lxc_oci/source/"},
    "socket": {"lxc_oci/source/"},
    "tarfile": set(),
    "urllib.request": set(),
    "pickle": set(),
    "marshal": set(),
    "shelve": set(),
    "multiprocessing": set(),
    "requests": set(),
}
STARTERS = {
    "system",
    "popen",
    "posix_spawn",
    "posix_spawnp",
    "fork",
    "forkpty",
    "spawnl",
    "spawnv",
    "spawnve",
    "spawnlp",
}


def stages() -> dict[str, int]:
    """The stage of each package, and of each module that lies in none, by CONTRIBUTING's table."""
    order: dict[str, int] = {}
    rows = re.findall(r"^\| (\w+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    for number, (_, modules) in enumerate(row for row in rows if row[0] != "stage"):
        for word in re.findall(r"`(\w+)", modules):
            order.setdefault(word, number)
    return order


ORDER = stages()
LAST = max(ORDER.values())


def stage(module: str) -> int:
    """The stage of `lxc_oci.X…`; a module that the table does not list is a verb."""
    return ORDER.get(module.split(".")[1], LAST)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported, with its line; `from a import b` may name a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def test_the_table_lists_every_package() -> None:
    packages = {path.parent.name for path in FILES if path.parent != PACKAGE}
    assert packages - set(ORDER) <= {"verbs"}, "a package is missing in the table of CONTRIBUTING.md"
    listed = [ORDER[name] for name in ("errors", "kernel", "image", "source", "layer", "store", "container", "create")]
    assert listed == sorted(set(listed))


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_to_earlier_stages(name: str) -> None:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if module == "lxc_oci":
        return
    late = [
        f"{name}:{line}: {found}"
        for found, line in imports(tree_of(name))
        if found.startswith("lxc_oci.") and not found.endswith("__version__") and stage(found) > stage(module)
    ]
    assert not late


@pytest.mark.parametrize("name", NAMES)
def test_what_only_some_modules_may_import(name: str) -> None:
    wrong = [
        f"{name}:{line}: {found}"
        for found, line in imports(tree_of(name))
        for word, owners in ALONE.items()
        if (found == word or found.startswith(word + ".")) and not any(name.startswith(owner) for owner in owners)
    ]
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_optional_modules_are_imported_where_they_are_used(name: str) -> None:
    top = ast.Module([node for node in tree_of(name).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not [found for found, _ in imports(top) if found.partition(".")[0] in LATE]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("lxc_oci/kernel/")])
def test_programs_are_started_by_the_kernel_stage_alone(name: str) -> None:
    started = [
        f"{name}:{node.lineno}: os.{node.attr}"
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in STARTERS
    ]
    assert not started


@pytest.mark.parametrize("name", NAMES)
def test_no_shell_no_bare_except_no_module_state(name: str) -> None:
    tree = tree_of(name)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.keyword) and node.arg == "shell"), f"{name}: shell="
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{name}:{node.lineno}: bare except"
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno}: global"


@pytest.mark.parametrize("name", NAMES)
def test_every_module_has_its_licence_and_its_charter(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.startswith("# SPDX-License-Identifier: LGPL-2.1-or-later\n")
    if not name.endswith("__init__.py"):
        assert ast.get_docstring(tree_of(name)), f"{name} does not say what it is for"


def test_no_two_test_modules_share_a_name() -> None:
    """pytest imports them by their base names, and `make check-long` collects all of them at once."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
