"""The spec's defaults, derived values and the rules that let something pass."""

import pytest
from kit.job_file import SHORTEST_JOB, make_job_text
from pipemax_worker.job import InferenceJobSpec, parse_job
from pydantic import ValidationError


def spec_of(
    addition: str = "", model: str = "{uri: models/tiny}", output: str = "{uri: out}"
) -> InferenceJobSpec:
    text = make_job_text(addition).replace("{uri: models/tiny}", model)
    return parse_job(text.replace("{uri: out}", output), "job.yaml").spec


def test_a_short_job_has_good_defaults() -> None:
    spec = spec_of()
    assert spec.model.dtype == "auto"
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.top_k) == (1.0, 1.0, 0)
    assert spec.sampling.max_tokens is None
    assert (spec.parallelism.nodes, spec.parallelism.stages_per_node) == (1, None)
    assert (spec.engine.block_tokens, spec.engine.policy) == (16, "fused")
    assert (spec.engine.memory_fraction, spec.engine.look_ahead) == (0.92, 1024)
    assert spec.engine.prefix_sharing
    assert (spec.kv_cache.host, spec.kv_cache.nvme) == (4 * 2**30, None)
    assert spec.grace_period_seconds is None
    assert spec.derive_grace_seconds() == 60
    assert (spec.error_policy.max_failed_percent, spec.error_policy.max_failed_count) == (100, None)
    assert (spec.deadline, spec.suspend, spec.resume_from) == (None, False, None)
    assert spec.scheduling.gpu_resource_name == "nvidia.com/gpu"


def test_sections_without_a_value_are_the_defaults() -> None:
    assert spec_of("sampling:\nengine:\nkvCache: {nvme: }\nscheduling: ~") == spec_of()


def test_amounts_are_numbers() -> None:
    spec = spec_of("deadline: 30m\nkvCache: {host: 1.5Gi, nvme: {emptyDir: {}, size: 500M}}")
    assert spec.deadline == 1800
    assert spec.kv_cache.host == 3 * 2**29
    assert spec.kv_cache.nvme is not None
    assert spec.kv_cache.nvme.size == 500_000_000


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ("", 60),
        ("kvCache: {host: 200G}", 60),
        ("kvCache: {host: 200G, nvme: {hostPath: /nvme, size: 1T}}", 300),
        ("kvCache: {host: 200G, nvme: {persistentVolumeClaim: {claimName: c}, size: 1T}}", 300),
        ("kvCache: {host: 200G, nvme: {hostPath: /nvme, size: 100G}}", 150),
        ("kvCache: {host: 200G, nvme: {emptyDir: {}, size: 1T}}", 60),
        ("kvCache: {host: 9T, nvme: {hostPath: /nvme, size: 9T}}", 3600),
        ("gracePeriodSeconds: 7\nkvCache: {host: 200G, nvme: {hostPath: /nvme, size: 1T}}", 7),
    ],
)
def test_the_grace_is_what_parking_takes(fields: str, seconds: int) -> None:
    """At 1 GB/s and with half as much again, if the job says nothing."""
    spec = spec_of(fields)
    assert spec.derive_grace_seconds() == seconds
    halved = spec.derive_grace_seconds(0.5e9)
    assert seconds <= halved <= 2 * seconds


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("{uri: ./models/tiny/}", ("tiny",)),
        ("{uri: 'hostPath:///models/llama-70b'}", ("llama-70b",)),
        ("{uri: 'pvc://models'}", ("models",)),
        ("{uri: 's3://bucket/llama/'}", ("llama",)),
        ("{uri: organisation/llama}", ("llama", "organisation/llama")),
        ("{uri: organisation/llama, name: chat}", ("chat",)),
        ("{uri: /m/llama, aliases: [gpt-4o, chat]}", ("llama", "gpt-4o", "chat")),
        ("{uri: llama, aliases: [llama]}", ("llama",)),
        ("{uri: /}", ("model",)),
    ],
)
def test_the_names_of_the_model(model: str, names: tuple[str, ...]) -> None:
    assert spec_of(model=model).model.names == names


@pytest.mark.parametrize(
    ("parallelism", "num_stages"),
    [("{}", None), ("{stagesPerNode: 3}", 3), ("{layersPerStage: [15, 17, 17, 15]}", 4)],
)
def test_stages_are_as_many_as_their_layers_say(parallelism: str, num_stages: int | None) -> None:
    assert spec_of(f"parallelism: {parallelism}").parallelism.num_stages == num_stages


def test_several_inputs_keep_their_order() -> None:
    text = SHORTEST_JOB.replace("{uri: prompts.jsonl}", "{uris: [b.jsonl, a.jsonl]}")
    assert parse_job(text, "job.yaml").spec.input.all_uris == ("b.jsonl", "a.jsonl")


@pytest.mark.parametrize(
    "output",
    [
        "{uri: 'pvc://results/x'}",
        "{uri: 's3://results/x'}",
        "{uri: 'hostPath:///nfs/x', shared: true}",
    ],
)
def test_several_nodes_are_fine_with_a_store_that_they_share(output: str) -> None:
    assert spec_of("parallelism: {nodes: 4}", output=output).parallelism.nodes == 4


@pytest.mark.parametrize(
    "addition",
    [
        "sampling: {minTokens: 5, maxTokens: 5}",
        "sampling: {minTokens: 5}",
        "kvCache: {host: 0}",
        "parallelism: {layersPerStage: [16]}",
        "parallelism: {stagesPerNode: 4, layersPerStage: [15, 17, 17, 15]}",
        "scheduling: {tolerations: [{operator: Exists}]}",
        "scheduling: {tolerations: [{key: a, effect: NoExecute, tolerationSeconds: 0}]}",
    ],
)
def test_rules_let_pass_what_is_right(addition: str) -> None:
    assert spec_of(addition) != spec_of()


def test_a_spec_never_changes() -> None:
    spec = spec_of()
    with pytest.raises(ValidationError, match="frozen"):
        spec.suspend = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("output", "policy", "replaces"),
    [
        ("{uri: out}", "", False),
        ("{uri: 'hostPath:///out'}", "policy: Wait", False),
        ("{uri: 'hostPath:///nfs/x', shared: true}", "", True),
        ("{uri: 'hostPath:///nfs/x', shared: true}", "policy: Replace", True),
        ("{uri: 'pvc://results/x'}", "", True),
        ("{uri: 's3://results/x'}", "", True),
        ("{uri: 's3://results/x'}", "policy: Wait", False),
    ],
)
def test_a_lost_worker_is_replaced_where_its_successor_reaches_the_output(
    output: str, policy: str, replaces: bool
) -> None:
    spec = spec_of(f"nodeLoss: {{{policy}}}", output=output)
    assert spec.replaces_lost_workers is replaces
    assert (spec.node_loss.replace_after, spec.node_loss.take_over_after) == (300, 60)
