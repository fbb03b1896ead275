"""A Linux network namespace that no other process reaches.

TensorFlow's servers listen on all addresses of a machine and run code that any client sends.
Source: https://man7.org/linux/man-pages/man7/network_namespaces.7.html and user_namespaces.7.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import socket
import struct

from mtfrun.errors import InputError

# From linux/sched.h, linux/sockios.h and linux/if.h.
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


def is_private() -> bool:
    """Returns whether only loopback interfaces are up; False if this cannot be found out."""
    try:
        flags = [_interface_flags(name) for _, name in socket.if_nameindex()]
    except (OSError, ImportError):
        return False
    return all(one & _IFF_LOOPBACK or not one & _IFF_UP for one in flags)


def enter() -> None:
    """Moves this process, which must be single-threaded, and later children into a namespace."""
    user, group = os.geteuid(), os.getegid()
    try:
        try:
            _unshare(_CLONE_NEWNET)  # needs root
        except PermissionError:
            _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
            process = pathlib.Path("/proc/self")
            (process / "uid_map").write_text(f"{user} {user} 1")
            (process / "setgroups").write_text("deny")
            (process / "gid_map").write_text(f"{group} {group} 1")
        _interface_flags("lo", _IFF_UP)
    except (OSError, ImportError, AttributeError) as error:  # not Linux, or an old one
        is_forbidden = getattr(error, "errno", None) in (errno.EPERM, errno.EACCES, errno.ENOSPC)
        reason = "it forbids network namespaces" if is_forbidden else str(error)
        raise InputError(
            f"this system does not allow a private network for the processes ({reason}), and "
            "whoever reaches the ports of TensorFlow's servers can run code as you: give `mtfrun "
            "launch --trusted_network` if you trust all who reach this machine"
        ) from None


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _interface_flags(name: str, added: int = 0) -> int:
    import fcntl  # noqa: PLC0415 - not on Windows

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = int(struct.unpack("16xH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[0])
        if added:
            flags |= added
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))
        return flags
