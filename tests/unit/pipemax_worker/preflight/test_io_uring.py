"""Whether io_uring may be used is asked of the kernel itself."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest
from pipemax_worker.preflight import io_uring
from pipemax_worker.preflight.io_uring import describe_refusal, find_io_uring_fault


class FakeLibrary:
    """``syscall`` answers like a kernel that refuses, or hands out a descriptor."""

    def __init__(self, answer: int, number: int = 0) -> None:
        self.answer, self.number = answer, number

    def syscall(self, *_: object) -> int:
        ctypes.set_errno(self.number)
        return self.answer


def use(monkeypatch: pytest.MonkeyPatch, library: FakeLibrary) -> None:
    monkeypatch.setattr(io_uring.ctypes, "CDLL", lambda *_, **__: library)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EPERM, "seccomp"), (errno.ENOSYS, "kernel does not have it"), (errno.EIO, "EIO")],
)
def test_a_refusal_is_named(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    use(monkeypatch, FakeLibrary(-1, number))
    fault = find_io_uring_fault()
    assert fault is not None
    assert fault.startswith(errno.errorcode[number])
    assert words in fault


def test_what_was_set_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    use(monkeypatch, FakeLibrary(writer))
    assert find_io_uring_fault() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(writer)
    os.close(reader)


def test_this_kernel_answers() -> None:
    before = len(os.listdir("/proc/self/fd"))
    fault = find_io_uring_fault()
    assert fault is None or ":" in fault
    assert len(os.listdir("/proc/self/fd")) == before


def test_numbers_without_a_name() -> None:
    assert describe_refusal(4095).startswith("4095: ")
