"""TCP connections of another process, cut as if the network had gone."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import socket

from mtfrun.errors import InputError

# The number of the system call on all processors, since Linux 5.6:
# https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html
_PIDFD_GETFD = 438
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def cut_connections(pid: int) -> int:
    """Shuts down the TCP connections of a process and returns their number; Linux only.

    Both ends see that the connection is closed. The process belongs to the same user.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        return sum(
            _shut_down(process, int(path.name))
            for path in pathlib.Path(f"/proc/{pid}/fd").iterdir()
            if _is_socket(path)
        )
    except FileNotFoundError:  # the process has ended
        return 0
    finally:
        os.close(process)


def _is_socket(path: pathlib.Path) -> bool:
    try:
        return str(path.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile
        return False


def _shut_down(process: int, descriptor: int) -> bool:
    """Returns whether it was a TCP connection."""
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.ENOSYS):
            raise InputError(
                "this system does not allow to cut the connections of another process "
                f"({os.strerror(number)}): leave CutConnection out"
            )
        return False  # closed meanwhile
    with socket.socket(fileno=copy) as connection:
        is_tcp = connection.type == socket.SOCK_STREAM and connection.family in _FAMILIES
        if not is_tcp or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed
            return False
    return True
