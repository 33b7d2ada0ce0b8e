"""Places on this machine, outside a pod."""

from pathlib import Path

import pytest
from kit.job_file import make_job_text
from pipemax_worker.errors import JobFileError
from pipemax_worker.job import (
    HOST_PATH_MOUNT,
    NVME_HOST_PATH_MOUNT,
    HubId,
    S3Folder,
    mount_path,
    parse_job,
    resolve_model,
    resolve_nvme,
    resolve_place,
)
from pipemax_worker.job.kv_cache import NvmeSpec


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("prompts/*.jsonl", "/jobs/prompts/*.jsonl"),
        ("../x", "/x"),
        ("/data/x", "/data/x"),
        ("file:///data/x", "/data/x"),
        ("hostPath:///data/x", "/data/x"),
        ("pvc://datasets/reviews/*.jsonl", "/mounted/reviews/*.jsonl"),
        ("pvc://datasets", "/mounted"),
        ("s3://results/x/", "s3://results/x/"),
    ],
)
def test_a_place_outside_a_pod(uri: str, path: str) -> None:
    assert resolve_place(uri, Path("/jobs"), {"datasets": "/mounted"}) == path


def test_a_place_does_not_depend_on_the_working_folder_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_place("out", Path(), {}) == str(tmp_path / "out")
    assert resolve_place("pvc://data/x", Path(), {"data": "m"}) == str(tmp_path / "m" / "x")


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_place("~/models", Path("/jobs"), {}) == str(tmp_path / "models")


def test_a_claim_without_a_mount_names_the_option() -> None:
    with pytest.raises(JobFileError, match=r"--mount datasets=PATH"):
        resolve_place("pvc://datasets/x", Path("/jobs"), {"other": "/x"})


def test_what_is_no_place_is_refused() -> None:
    with pytest.raises(JobFileError, match=r"found 'gs://x', expected a path, hostPath:///path"):
        resolve_place("gs://x", Path("/jobs"), {})


def test_an_existing_path_wins_over_a_hub_id(tmp_path: Path) -> None:
    wanted = tmp_path / "organisation" / "name"
    assert resolve_model("organisation/name", tmp_path, {}) == HubId("organisation/name", wanted)
    wanted.mkdir(parents=True)
    assert resolve_model("organisation/name", tmp_path, {}) == wanted


@pytest.mark.parametrize("uri", ["./models/tiny", "/models/tiny", "hostPath:///models/tiny"])
def test_a_path_that_is_missing_stays_a_path(uri: str, tmp_path: Path) -> None:
    model = resolve_model(uri, tmp_path, {})
    assert isinstance(model, Path)
    assert model.is_absolute()


def test_a_model_in_an_object_store_stays_there(tmp_path: Path) -> None:
    assert resolve_model("s3://models/x/", tmp_path, {}) == S3Folder("s3://models/x/")


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("hostPath: /mnt/nvme", Path("/mnt/nvme")),
        ("persistentVolumeClaim: {claimName: disk}", Path("/mounted")),
        ("emptyDir: {}", None),
    ],
)
def test_the_folder_of_the_nvme_tier(place: str, folder: Path | None) -> None:
    job = parse_job(make_job_text(f"kvCache: {{nvme: {{{place}, size: 1Gi}}}}"), "job.yaml")
    assert job.spec.kv_cache.nvme is not None
    assert resolve_nvme(job.spec.kv_cache.nvme, {"disk": "/mounted"}) == folder


def test_an_nvme_claim_without_a_mount_is_refused() -> None:
    text = make_job_text("kvCache: {nvme: {persistentVolumeClaim: {claimName: disk}, size: 1}}")
    nvme = parse_job(text, "job.yaml").spec.kv_cache.nvme
    assert nvme is not None
    with pytest.raises(JobFileError, match=r"--mount disk=PATH"):
        resolve_nvme(nvme, {})


def test_host_paths_lie_below_their_mount_in_a_pod(tmp_path: Path) -> None:
    mounts = {HOST_PATH_MOUNT: "/mnt/pipemax/host"}
    found = resolve_place("hostPath:///data/*.jsonl", tmp_path, mounts)
    assert found == mount_path("hostPath:///data/*.jsonl") == "/mnt/pipemax/host/data/*.jsonl"
    assert resolve_place("/data/x", tmp_path, mounts) == "/data/x"
    nvme = NvmeSpec.model_validate({"hostPath": "/mnt/nvme", "size": "1Gi"})
    assert resolve_nvme(nvme, mounts) == Path("/mnt/pipemax/host/mnt/nvme")
    own = {**mounts, NVME_HOST_PATH_MOUNT: "/mnt/pipemax/nvme"}
    assert resolve_nvme(nvme, own) == Path("/mnt/pipemax/nvme")
