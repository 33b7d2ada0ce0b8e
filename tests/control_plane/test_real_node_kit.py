"""What real nodes stand on, without starting one."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from kit.control_plane import real_node_needs
from kit.control_plane.real_node_image import (
    IMAGE,
    SANDBOX_IMAGE,
    build_pause_program,
    host_mounts,
    write_images,
)


def test_without_root_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_node_needs.os, "geteuid", lambda: 1000)
    with pytest.raises(real_node_needs.NodesImpossibleError, match="root: `sudo -E make"):
        real_node_needs.provide_needs()


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_node_needs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(real_node_needs.shutil, "which", lambda name: None)
    with pytest.raises(real_node_needs.NodesImpossibleError) as raised:
        real_node_needs.provide_needs()
    assert "need containerd, " in str(raised.value)
    assert "sudo apt-get install -y --no-install-recommends containerd runc" in str(raised.value)
    assert "PIPEMAX_ALLOW_STANDIN=1" in str(raised.value)


def test_the_pause_program_waits_until_it_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(build_pause_program())
    program.chmod(0o755)
    with subprocess.Popen([program]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.kill()
        assert process.wait() == -9


def test_the_images_are_almost_empty(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    write_images(path)
    assert path.stat().st_size < 100_000
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file}
    manifest = json.loads(contents["manifest.json"])
    assert [one["RepoTags"] for one in manifest] == [[IMAGE], [SANDBOX_IMAGE]]
    names = []
    for one in manifest:
        with tarfile.open(fileobj=io.BytesIO(contents[one["Layers"][0]])) as layer:
            names.append({member.name for member in layer.getmembers() if member.isfile()})
    assert names == [{"etc/passwd"}, {"etc/passwd", "pause"}]


def test_no_mount_lies_below_another() -> None:
    volumes, mounts = host_mounts()
    paths = [Path(mount["mountPath"]) for mount in mounts]
    assert Path("/usr") in paths
    assert not [one for one in paths for other in paths if other in one.parents]
    assert [volume["hostPath"]["path"] for volume in volumes] == [str(path) for path in paths]
    assert all(mount["readOnly"] for mount in mounts)
