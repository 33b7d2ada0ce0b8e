"""Whether the kernel lets this process use io_uring, which containers often may not."""

from __future__ import annotations

import ctypes
import errno
import os

_SETUP_NUMBER = 425
"""``io_uring_setup`` on every architecture that has it."""

_PARAMETERS_BYTES = 120


def find_io_uring_fault() -> str | None:
    """Set one up and close it again; None if that works."""
    parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
    library = ctypes.CDLL(None, use_errno=True)
    fd = int(library.syscall(_SETUP_NUMBER, 1, parameters))
    if fd >= 0:
        os.close(fd)
        return None
    return describe_refusal(ctypes.get_errno())


def describe_refusal(number: int) -> str:
    """What the kernel's answer means."""
    why = {
        errno.ENOSYS: "the kernel does not have it, or a seccomp profile hides it",
        errno.EPERM: "a seccomp profile or the sysctl kernel.io_uring_disabled forbids it",
        errno.EACCES: "a security module forbids it",
        errno.ENOMEM: "the limit of locked memory is too low for it",
    }.get(number, os.strerror(number))
    return f"{errno.errorcode.get(number, str(number))}: {why}"
