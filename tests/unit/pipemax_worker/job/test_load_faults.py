"""Job files that are refused: every fault with its line and its field."""

from __future__ import annotations

import pytest
from kit.job_file import FIRST_ADDED_LINE, SHORTEST_JOB, make_job_text
from pipemax_worker.errors import JobFileError
from pipemax_worker.job import parse_job


def refusal_of(text: str) -> list[str]:
    with pytest.raises(JobFileError) as refused:
        parse_job(text, "job.yaml")
    return str(refused.value).split("\n")


# What is added to the shortest job -> what is said of it; {line} is the line of the first addition.
FAULTS = {
    "kvCache:\n  nvme: {emptyDir: {}, size: 1Tib}": (
        "job.yaml:{next}: spec.kvCache.nvme.size: found '1Tib', expected a quantity such as 200Gi "
        "or 1Ti; did you mean 1Ti?"
    ),
    "parallelism: {nodes: '4'}": (
        "job.yaml:{line}: spec.parallelism.nodes: found '4', expected a whole number"
    ),
    "parallelism: {nodes: 0}": (
        "job.yaml:{line}: spec.parallelism.nodes: found 0, expected at least 1"
    ),
    "parallelism: {stagesPerNode: 4, layersPerStage: [16, 17, 15]}": (
        "job.yaml:{line}: spec.parallelism.layersPerStage: found 3 numbers, expected one for each "
        "of the 4 stages that stagesPerNode says"
    ),
    "parallelism: {layersPerStage: [16, 0, 16]}": (
        "job.yaml:{line}: spec.parallelism.layersPerStage[1]: found 0, expected at least 1"
    ),
    "nodeLoss: {policy: Replace}": (
        "job.yaml:{line}: spec.nodeLoss.policy: found Replace, expected Wait: 'out' is on the lost "
        "node alone (if it is the same folder on all nodes, say so with output.shared: true)"
    ),
    "nodeLoss: {policy: Retry}": (
        "job.yaml:{line}: spec.nodeLoss.policy: found 'Retry', expected one of Replace, Wait"
    ),
    "parallelism: 4": "job.yaml:{line}: spec.parallelism: found 4, expected a mapping",
    "sampling:\n  temperature: hot": (
        "job.yaml:{next}: spec.sampling.temperature: found 'hot', expected a number"
    ),
    "sampling: {temperature: 2.5}": (
        "job.yaml:{line}: spec.sampling.temperature: found 2.5, expected at most 2"
    ),
    "sampling: {temperature: .nan}": (
        "job.yaml:{line}: spec.sampling.temperature: found nan, expected a finite number"
    ),
    "sampling: {topP: 0}": "job.yaml:{line}: spec.sampling.topP: found 0, expected more than 0",
    "sampling: {stop: END}": "job.yaml:{line}: spec.sampling.stop: found 'END', expected a list",
    "sampling:\n  stop: [END,\n  no]": (
        "job.yaml:11: spec.sampling.stop[1]: found false, expected text; put it in quotes"
    ),
    "sampling:\n  stop:\n  - ''": (
        "job.yaml:11: spec.sampling.stop[0]: found '', expected at least 1 character"
    ),
    "sampling: {minTokens: 9, maxTokens: 5}": (
        "job.yaml:{line}: spec.sampling.minTokens: found 9, expected at most maxTokens, which is 5"
    ),
    "engine: {prefixSharing: 1}": (
        "job.yaml:{line}: spec.engine.prefixSharing: found 1, expected true or false"
    ),
    "engine: {blockTokens: 1.5}": (
        "job.yaml:{line}: spec.engine.blockTokens: found 1.5, expected a whole number"
    ),
    "engine: {kvDtype: bf16}": (
        "job.yaml:{line}: spec.engine.kvDtype: found 'bf16', expected one of auto, float32, "
        "bfloat16, float16, fp8_e4m3; did you mean bfloat16?"
    ),
    "engine: {deviceKvCache: 0}": (
        "job.yaml:{line}: spec.engine.deviceKvCache: found 0, expected at least 1"
    ),
    "kvCache:\n  nvme: {size: 1Ti}": (
        "job.yaml:{next}: spec.kvCache.nvme: found none, expected exactly one of hostPath, "
        "persistentVolumeClaim, emptyDir"
    ),
    "kvCache:\n  nvme:\n    size: 1Ti\n    hostPath: /x\n    emptyDir: {}": (
        "job.yaml:13: spec.kvCache.nvme.emptyDir: found hostPath and emptyDir, expected exactly "
        "one of hostPath, persistentVolumeClaim, emptyDir"
    ),
    "kvCache: {nvme: {hostPath: x, size: 1}}": (
        "job.yaml:{line}: spec.kvCache.nvme.hostPath: found 'x', expected an absolute path, such "
        "as /mnt/nvme/pipemax"
    ),
    "kvCache: {nvme: {emptyDir: {}}}": (
        "job.yaml:{line}: spec.kvCache.nvme.size: missing, but is required"
    ),
    "kvCache: {nvme: {emptyDir: {}, size: }}": (
        "job.yaml:{line}: spec.kvCache.nvme.size: has no value, but is required"
    ),
    "kvCache:\n  nvme: {emptyDir: {}, size: 1Gi}\n  host: 0": (
        "job.yaml:11: spec.kvCache.host: found 0, expected more: the NVMe tier is reached through "
        "host memory"
    ),
    "deadline: 12 h": (
        "job.yaml:{line}: spec.deadline: found '12 h', expected a duration such as 12h, 30m or "
        "1d12h, or a whole number of seconds"
    ),
    "deadline: 0": "job.yaml:{line}: spec.deadline: found 0, expected at least 1",
    "gracePeriodSeconds: 7200": (
        "job.yaml:{line}: spec.gracePeriodSeconds: found 7200, expected at most 3600"
    ),
    "errorPolicy: {maxFailedPercent: 101}": (
        "job.yaml:{line}: spec.errorPolicy.maxFailedPercent: found 101, expected at most 100"
    ),
    "parallelism:\n  nodes: 2": (
        "job.yaml:8: spec.output.uri: found 'out', expected pvc:// or s3://: 2 nodes need a store "
        "that they share (if this path is the same folder on all of them, say so with shared: true)"
    ),
    "resumeFrom: out/*": (
        "job.yaml:{line}: spec.resumeFrom: found 'out/*', expected a single folder, without the "
        "wildcards * ? ["
    ),
    "scheduling:\n  tolerations:\n  - {operator: Exists, value: x}": (
        "job.yaml:11: spec.scheduling.tolerations[0].value: expected none: operator Exists "
        "matches every value"
    ),
    "scheduling:\n  tolerations:\n  - {value: x}\n  - {key: a, tolerationSeconds: 3}": (
        "job.yaml:11: spec.scheduling.tolerations[0].key: missing; only operator Exists may leave "
        "it out\n"
        "job.yaml:12: spec.scheduling.tolerations[1].tolerationSeconds: expected only with effect "
        "NoExecute"
    ),
    "scheduling: {queueName: My Queue}": (
        "job.yaml:{line}: spec.scheduling.queueName: found 'My Queue', expected lower-case "
        "letters, digits, '-' and '.', with a letter or digit at both ends"
    ),
    "scheduling: {nodeSelector: {gpus: 8}}": (
        "job.yaml:{line}: spec.scheduling.nodeSelector.gpus: found 8, expected text; put it in "
        "quotes"
    ),
    "deadline: 1h\ndeadline: 2h": (
        "job.yaml:{next}: spec.deadline: given twice, first in line {line}"
    ),
    "engine:\n  <<: {policy: fused}": (
        "job.yaml:{next}: spec.engine: merge keys (<<) are not supported, write the fields out"
    ),
}


@pytest.mark.parametrize("addition", FAULTS)
def test_a_fault_is_named_with_its_line_and_field(addition: str) -> None:
    lines = {"line": FIRST_ADDED_LINE, "next": FIRST_ADDED_LINE + 1}
    expected = FAULTS[addition].format(**lines).split("\n")
    assert refusal_of(make_job_text(addition)) == expected


# What replaces a line of the shortest job -> what is said of it.
REPLACEMENTS = {
    ("  name: reviews", "  name: Reviews"): (
        "job.yaml:4: metadata.name: found 'Reviews', expected lower-case letters, digits and '-', "
        "with a letter or digit at both ends, such as my-job"
    ),
    ("  name: reviews", "  name: " + "a" * 53): (
        f"job.yaml:4: metadata.name: found '{'a' * 53}', expected at most 52 characters"
    ),
    ("  name: reviews", "  name:"): "job.yaml:4: metadata.name: has no value, but is required",
    ("  name: reviews", "  name: 12"): (
        "job.yaml:4: metadata.name: found 12, expected text; put it in quotes"
    ),
    ("  name: reviews", "  name: reviews\n  labels: {tier: 1}"): (
        "job.yaml:5: metadata.labels.tier: found 1, expected text; put it in quotes"
    ),
    ("{uri: models/tiny}", "{name: x}"): "job.yaml:6: spec.model.uri: missing, but is required",
    ("{uri: models/tiny}", "{uri: hostPath://tiny}"): (
        "job.yaml:6: spec.model.uri: found 'hostPath://tiny', expected an absolute path, three "
        "slashes in all: hostPath:///tiny"
    ),
    ("{uri: models/tiny}", "{uri: org/tiny, cacheDir: s3://bucket/cache}"): (
        "job.yaml:6: spec.model.cacheDir: found 's3://bucket/cache', expected a folder of the node"
    ),
    ("{uri: models/tiny}", "{uri: /tiny, revision: main}"): (
        "job.yaml:6: spec.model.revision: expected only with a hub id; uri is '/tiny'"
    ),
    ("{uri: models/tiny}", "{uri: x, name: a, aliases: [b, a, b]}"): (
        "job.yaml:6: spec.model.aliases[1]: found 'a' a second time\n"
        "job.yaml:6: spec.model.aliases[2]: found 'b' a second time"
    ),
    ("{uri: prompts.jsonl}", "{}"): (
        "job.yaml:7: spec.input.uri: found none, expected exactly one of uri, uris"
    ),
    ("{uri: prompts.jsonl}", "{uri: a, uris: [b]}"): (
        "job.yaml:7: spec.input.uris: found both, expected exactly one of uri, uris"
    ),
    ("{uri: prompts.jsonl}", "{uris: []}"): (
        "job.yaml:7: spec.input.uris: found a list of 0, expected at least 1 entry"
    ),
    ("{uri: prompts.jsonl}", "{uris: [a, b, a]}"): (
        "job.yaml:7: spec.input.uris[2]: found 'a' a second time"
    ),
    ("{uri: out}", "{uri: prompts.jsonl}"): (
        "job.yaml:8: spec.output.uri: found 'prompts.jsonl', expected another place than the input"
    ),
    ("{uri: out}", "{uri: gs://bucket/out}"): (
        "job.yaml:8: spec.output.uri: found 'gs://bucket/out', expected a path, hostPath:///path, "
        "file:///path, pvc://claim/path or s3://bucket/key"
    ),
    ("  output: {uri: out}\n", ""): "job.yaml:5: spec.output: missing, but is required",
    ("kind: InferenceJob", "kind: Job"): ("job.yaml:2: kind: found 'Job', expected InferenceJob"),
    ("pipemax.dev/v1alpha1", "batch/v1"): (
        "job.yaml:1: apiVersion: found 'batch/v1', expected pipemax.dev/v1alpha1"
    ),
    ("kind: InferenceJob\n", ""): "job.yaml:1: kind: missing, but is required",
}


@pytest.mark.parametrize(("old", "new"), REPLACEMENTS)
def test_a_fault_in_what_is_required(old: str, new: str) -> None:
    text = SHORTEST_JOB.replace(old, new)
    assert refusal_of(text) == REPLACEMENTS[old, new].split("\n")


@pytest.mark.parametrize(
    ("addition", "field", "hint"),
    [
        ("sampling: {max_tokens: 5}", "spec.sampling.max_tokens", "did you mean maxTokens?"),
        ("sampling: {temprature: 0}", "spec.sampling.temprature", "did you mean temperature?"),
        ("maxTokens: 5", "spec.maxTokens", "did you mean spec.sampling.maxTokens?"),
        ("kvCache: {size: 1}", "spec.kvCache.size", "did you mean spec.kvCache.nvme.size?"),
        ("kvCache: {qqq: 1}", "spec.kvCache.qqq", "unknown field; allowed here: host, nvme"),
        (
            "kvCache: {nvme: {size: 1, emptyDir: {sizeLimit: 1}}}",
            "spec.kvCache.nvme.emptyDir.sizeLimit",
            "unknown field; allowed here: nothing",
        ),
        (
            "scheduling: {tolerations: [{ky: a}]}",
            "spec.scheduling.tolerations[0].ky",
            "did you mean key?",
        ),
    ],
)
def test_an_unknown_field_gets_a_suggestion(addition: str, field: str, hint: str) -> None:
    first, *others = refusal_of(make_job_text(addition))
    assert first.startswith(f"job.yaml:{FIRST_ADDED_LINE}: {field}: unknown field; ")
    assert hint in first
    assert others == []


def test_all_faults_come_at_once_in_the_order_of_lines() -> None:
    text = make_job_text("deadline: x\nengine: {policy: best}\ndeadline: y\nsuspend: 1")
    text = text.replace("name: reviews", "name: R")
    numbers = [int(fault.split(":")[1]) for fault in refusal_of(text)]
    assert numbers == [4, 9, 10, 11, 12]
