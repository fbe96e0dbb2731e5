# SPDX-License-Identifier: LGPL-2.1-or-later
"""The system calls that Python lacks: the only ctypes of the package.

Each wrapper is a few lines and raises OSError with the errno of the call; none
of them decides anything.  Numbers above 424 are the same on every architecture.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

FICLONE = 0x40049409

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _oserror(name: str | bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


def openat2(dir_fd: int, name: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2): return a new, close-on-exec file descriptor."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd: int = _syscall(_NR_OPENAT2, ctypes.c_int(dir_fd), ctypes.c_char_p(name), ctypes.byref(how), ctypes.c_size_t(24))
    if fd < 0:
        raise _oserror(name)
    return fd


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2): RENAME_NOREPLACE or RENAME_EXCHANGE."""
    if _libc.renameat2(old_fd, ctypes.c_char_p(old), new_fd, ctypes.c_char_p(new), ctypes.c_uint(flags)) < 0:
        raise _oserror(new)


def syncfs(fd: int) -> None:
    """syncfs(2): flush the whole file system that `fd` lies on; reports write-back errors since Linux 5.8."""
    if _libc.syncfs(fd) < 0:
        raise _oserror()


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
    """mount(2)."""
    if (
        _libc.mount(
            ctypes.c_char_p(source),
            ctypes.c_char_p(target),
            ctypes.c_char_p(kind),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(data),
        )
        < 0
    ):
        raise _oserror(target)


def umount2(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(ctypes.c_char_p(target), flags) < 0:
        raise _oserror(target)


def unshare(flags: int) -> None:
    """unshare(2); os.unshare exists only since Python 3.12."""
    if _libc.unshare(flags) < 0:
        raise _oserror()


def set_parent_death_signal(signal: int) -> None:
    """prctl(PR_SET_PDEATHSIG): the signal that this process gets when its parent dies."""
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0) < 0:
        raise _oserror()


def drop_bounding_capability(number: int) -> None:
    """prctl(PR_CAPBSET_DROP)."""
    if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
        raise _oserror()
