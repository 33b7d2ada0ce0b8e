"""Job files in and out: every fault with its line and field, and the way back to YAML."""

from pathlib import Path

import pytest
from kit.job_file import SHORTEST_JOB, make_job_text
from pipemax_worker.errors import JobFileError
from pipemax_worker.job import dump_job, load_job, parse_job


def refusal_of(text: str) -> list[str]:
    with pytest.raises(JobFileError) as refused:
        parse_job(text, "job.yaml")
    return str(refused.value).split("\n")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SHORTEST_JOB.encode())
    job = load_job(path)
    assert job.metadata.name == "reviews"
    assert job.spec.model.uri == "models/tiny"
    assert job.spec.input.all_uris == ("prompts.jsonl",)
    assert job.spec.output.uri == "out"


def test_a_long_value_is_shortened() -> None:
    (fault,) = refusal_of(make_job_text(f"image: '{'x ' * 200}'"))
    assert fault.endswith("... (400 characters), expected a name without spaces")
    assert len(fault) < 160


def test_a_file_of_another_kind_is_not_taken_apart() -> None:
    faults = refusal_of("apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 3}\n")
    assert [fault.split(" ")[1] for fault in faults] == ["apiVersion:", "kind:"]


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "12"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    (fault,) = refusal_of("# comment\n" + text)
    assert fault.startswith("job.yaml:2: found no mapping, expected an InferenceJob that begins")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"a: 1\nb: \xff\n", "job.yaml:2: not UTF-8 text"),
        (b"#" * (2**20 + 1), "larger than 1048576 bytes"),
        (b"", "the file is empty"),
        (b"a: [", "job.yaml:1:5: not YAML"),
    ],
)
def test_what_is_no_job_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobFileError) as refused:
        load_job(path)
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert refused.value.exit_code == 78


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="this is a folder"):
        load_job(tmp_path)


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JobFileError, match="could not be read: Not a directory"):
        load_job(tmp_path / "file" / "job.yaml")


def test_what_the_api_server_adds_is_passed_over() -> None:
    text = make_job_text("").replace(
        "  name: reviews",
        "  name: reviews\n  uid: 1a2b\n  generation: 3\n  managedFields: [{manager: kubectl}]",
    )
    job = parse_job(text + "status: {phase: Running}\n", "job.yaml")
    assert job.metadata.uid == "1a2b"


FULL_SPEC = """
sampling: {temperature: 0, maxTokens: 512, minP: 1e-3, stop: ["\\n\\n", "no", "12"], seed: 7}
parallelism: {nodes: 4, stagesPerNode: 8}
engine: {kvDtype: fp8_e4m3, microBatches: 12, deviceKvCache: 1.5Gi, prefixSharing: no}
kvCache: {host: 200Gi, nvme: {hostPath: /mnt/nvme, size: 1Ti, writesPerDay: 500G}}
errorPolicy: {maxFailedPercent: 1, maxFailedCount: 10}
gracePeriodSeconds: 240
deadline: 1d12h
suspend: true
ttlSecondsAfterFinished: 3600
resumeFrom: pvc://results/old
credentials: {secretRef: {name: s3-access}}
image: registry/pipemax:1
scheduling:
  nodeSelector: {disk: "true"}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  queueName: night
"""


@pytest.mark.parametrize(
    "spec", ["", FULL_SPEC, "kvCache: {host: 4097, nvme: {emptyDir: {}, size: 1k}}"]
)
def test_a_job_survives_the_way_to_yaml(spec: str) -> None:
    job = parse_job(
        make_job_text(spec).replace("uri: out", "uri: 's3://results/Ünïcode'"), "job.yaml"
    )
    text = dump_job(job)
    assert parse_job(text, "dumped") == job
    assert dump_job(parse_job(text, "dumped")) == text


def test_the_way_to_yaml_adds_no_field_and_keeps_readable_amounts() -> None:
    text = dump_job(parse_job(make_job_text("deadline: 36h\nkvCache: {host: 200Gi}"), "job.yaml"))
    assert text == (
        "apiVersion: pipemax.dev/v1alpha1\nkind: InferenceJob\nmetadata:\n  name: reviews\n"
        "spec:\n  model:\n    uri: models/tiny\n  input:\n    uri: prompts.jsonl\n"
        "  output:\n    uri: out\n  kvCache:\n    host: 200Gi\n  deadline: 1d12h\n"
    )


def test_what_is_as_by_default_may_be_left_out() -> None:
    spec = "suspend: false\nengine: {policy: fused, stepTimeout: 1h}\nerrorPolicy: {}"
    job = parse_job(make_job_text(spec), "job.yaml")
    text = dump_job(job, with_defaults=False)
    assert text.endswith("  output:\n    uri: out\n  engine:\n    stepTimeout: 1h\n")
    assert parse_job(text, "dumped") == job
