"""Objects as files under one folder, on a local disk or a mounted (shared) file system.

Why it is safe: an object is written under a private name and fsynced before ``link`` or ``rename``
gives it its own, so a name never shows part of an object, whenever the process dies. ``link`` fails
on a taken name, which makes put_if_absent atomic between processes (and, over NFS, between nodes).
The folder is fsynced last; whoever adds segment K+1 fsyncs the folder in which he found K, so a
durable segment never follows one that a power cut can take.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipemax_worker.dataset.object_store import ObjectNotFoundError
from pipemax_worker.errors import OutputError

_TEMPORARY_FOLDER = ".tmp"
_STALE_TEMPORARY_SECONDS = 3600.0

_ADVICE = {
    errno.ENOSPC: "the disk is full: free space and run again, finished requests are kept",
    errno.EDQUOT: "the disk quota is used up: free space and run again, finished requests are kept",
    errno.EACCES: "no permission: make the folder writable for this user or choose another output",
    errno.EPERM: "not permitted: the file system must allow hard links, or choose another output",
    errno.EOPNOTSUPP: "the file system has no hard links: choose an output on another one",
    errno.EROFS: "the file system is read-only: choose another output",
    errno.ENOTDIR: "a part of the path is a file: choose another output",
    errno.EEXIST: "a file stands where a folder is needed: choose another output",
    errno.EIO: "the device reports an I/O error: check the disk, then run again",
    errno.ESTALE: "the network file system lost the folder: check the mount, then run again",
}


class LocalStore:
    """An :class:`~pipemax_worker.dataset.object_store.ObjectStore` in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY_FOLDER

    @property
    def place(self) -> str:
        return str(self._root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._named_errors("create", path):
            if path.exists():  # the common case of a taken key costs no write
                return False
            with self._temporary_file(data) as temporary:
                _make_folder(path.parent)
                created = _link(temporary, path)
            _fsync_folder(path.parent)
            return created

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._named_errors("write", path), self._temporary_file(data) as temporary:
            _make_folder(path.parent)
            os.replace(temporary, path)
            _fsync_folder(path.parent)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFoundError(f"{path}: not found") from None
        except OSError as error:
            raise _output_error("read", path, error) from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        folder = self._root / prefix.rpartition("/")[0]
        with self._named_errors("list", folder):
            return sorted(key for key in self._keys_under(folder) if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._named_errors("delete", path), contextlib.suppress(NotADirectoryError):
            path.unlink(missing_ok=True)  # below a file there is nothing either

    def probe(self) -> None:
        """Create, refuse to create again, read back and delete one object; sweep old temporaries.

        Raises OutputError if the folder cannot be made or written, or has no atomic create.
        """
        key = f"{_TEMPORARY_FOLDER}/probe-{uuid.uuid4().hex}"
        try:
            created = self.put_if_absent(key, b"probe")
            with self._temporary_file(b"again") as temporary:
                taken = not _link(temporary, self._path(key))
            kept = self.get(key) == b"probe"
        finally:  # on a full disk the second write fails, and the first file is there
            self.delete(key)
        if not (created and taken and kept):
            raise OutputError(
                f"{self._root}: the file system does not create files atomically, so results could "
                "be lost or doubled; choose an output on another file system"
            )
        self._sweep_temporaries()

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise OutputError(f"{self._root}: {key!r} is no key: it leads out of the folder")
        return self._root / key

    def _keys_under(self, folder: Path) -> Iterator[str]:
        for parent, folders, names in os.walk(folder):
            if _TEMPORARY_FOLDER in folders:
                folders.remove(_TEMPORARY_FOLDER)
            relative = Path(parent).relative_to(self._root).as_posix()
            for name in names:
                yield name if relative == "." else f"{relative}/{name}"

    @contextlib.contextmanager
    def _temporary_file(self, data: bytes) -> Iterator[Path]:
        """A file of its own name with ``data``, fsynced; whatever is left of it is removed."""
        path = self._temporary / f"{os.getpid()}-{uuid.uuid4().hex}"
        with self._named_errors("write", path):
            _make_folder(self._temporary)
            try:
                with open(path, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield path
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _sweep_temporaries(self) -> None:
        """Remove what killed workers left. One that is only frozen fails at its link: no harm."""
        oldest = time.time() - _STALE_TEMPORARY_SECONDS
        with contextlib.suppress(OSError):
            for path in list(self._temporary.iterdir()):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    @contextlib.contextmanager
    def _named_errors(self, verb: str, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _output_error(verb, path, error) from error


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        # A repeated NFS call reports "exists" for the link it made itself; the count tells.
        return os.stat(source).st_nlink == 2
    return True


def _make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents, each made durable in its own parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(verb: str, path: Path, error: OSError) -> OutputError:
    advice = _ADVICE.get(error.errno or 0, "check the location, then run again")
    return OutputError(f"could not {verb} {path}: {error.strerror or error}; {advice}")
