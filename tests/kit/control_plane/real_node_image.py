"""An almost empty image, and the mounts of this machine's own programs that fill it.

The image holds folders and links alone (some KiB, no registry, no download); ``/usr``, the Python
interpreter, its virtual environment and the checkout come in as read-only hostPath volumes.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

IMAGE = "docker.io/library/pipemax-almost-empty:1"
SANDBOX_IMAGE = "docker.io/library/pipemax-pause:1"

_CHECKOUT = Path(__file__).resolve().parents[3]
_FOLDERS = ("dev", "etc", "mnt", "proc", "run", "sys", "tmp", "usr", "var")
_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_ACCOUNTS = "root:x:0:0::/:/bin/sh\npipemax:x:10001:10001::/tmp:/bin/sh\n"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Document = dict[str, Any]


def write_images(path: Path) -> None:
    """Both images as one docker-archive: the almost empty one, and the one that holds a pod's
    namespaces open."""
    worker = _layer({})
    sandbox = _layer({"pause": build_pause_program()})
    manifest: list[Document] = []
    blobs: dict[str, bytes] = {}
    for tag, layer, config in (
        (IMAGE, worker, {"Env": [_PATH]}),
        (SANDBOX_IMAGE, sandbox, {"Env": [_PATH], "Entrypoint": ["/pause"]}),
    ):
        digest = hashlib.sha256(layer).hexdigest()
        body = _image_config(digest, config)
        name = hashlib.sha256(body).hexdigest()
        blobs |= {f"{name}.json": body, f"{digest}/layer.tar": layer}
        manifest.append(
            {"Config": f"{name}.json", "RepoTags": [tag], "Layers": [f"{digest}/layer.tar"]}
        )
    blobs["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in blobs.items():
            _add_file(archive, name, content, 0o644)


def host_mounts() -> tuple[list[Document], list[Document]]:
    """Volumes and their mounts for the operator's ``extra_volumes``, ``extra_volume_mounts``."""
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), _CHECKOUT]
    paths = [one for one in wanted if not any(other in one.parents for other in wanted)]
    volumes, mounts = [], []
    for number, path in enumerate(dict.fromkeys(paths)):
        name = f"host-{number}"
        volumes.append({"name": name, "hostPath": {"path": str(path), "type": "Directory"}})
        mounts.append({"name": name, "mountPath": str(path), "readOnly": True})
    return volumes, mounts


def build_pause_program() -> bytes:
    """An executable for Linux on x86-64 that waits for signals for ever: ``for (;;) pause();``."""
    code = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # mov eax, 34; syscall; jmp to the start
    base, headers = 0x400000, 64 + 56
    magic = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    file_header = struct.pack(
        "<16sHHIQQQIHHHHHH", magic, 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    size = headers + len(code)
    program_header = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return file_header + program_header + code


def _layer(programs: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        for name, target in _LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        _add_file(archive, "etc/passwd", _ACCOUNTS.encode(), 0o644)
        for name, content in programs.items():
            _add_file(archive, name, content, 0o755)
    return stream.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _image_config(layer_digest: str, config: Document) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created_by": "pipemax tests"}],
        }
    ).encode()
