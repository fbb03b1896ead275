"""TCP connections of another process, cut as if the network had gone."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import socket
from collections.abc import Iterator

from mtfrun.errors import InputError

# The number of the system call on all processors, since Linux 5.6:
# https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html
_PIDFD_GETFD = 438
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def cut_connections(pid: int) -> int:
    """Shuts down the TCP connections of a process and returns their number; Linux only.

    Both ends see that the connection is closed. The process belongs to the same user.
    """
    # All of them are opened before the first one is cut, at which the process may end.
    connections = list(_open_connections(pid))
    for connection in connections:
        with connection, contextlib.suppress(OSError):  # it is closed
            connection.shutdown(socket.SHUT_RDWR)
    return len(connections)


def _open_connections(pid: int) -> Iterator[socket.socket]:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            copy = _copy(process, int(path.name)) if _is_socket(path) else None
            if copy is not None:
                connection = socket.socket(fileno=copy)
                if _is_connection(connection):
                    yield connection
                else:
                    connection.close()
    except FileNotFoundError:  # the process has ended
        return
    finally:
        os.close(process)


def _is_socket(path: pathlib.Path) -> bool:
    try:
        return str(path.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile
        return False


def _copy(process: int, descriptor: int) -> int | None:
    """Returns a descriptor of this process for a file of another one; None if it is closed."""
    copy: int = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy >= 0:
        return copy
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.ENOSYS):
        raise InputError(
            "this system does not allow to cut the connections of another process "
            f"({os.strerror(number)}): leave CutConnection out"
        )
    return None


def _is_connection(one: socket.socket) -> bool:
    is_tcp = one.type == socket.SOCK_STREAM and one.family in _FAMILIES
    return is_tcp and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
