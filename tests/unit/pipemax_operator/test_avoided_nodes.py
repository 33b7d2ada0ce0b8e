"""Pods keep away from nodes with a lost GPU, whoever told of it and whatever became of that pod."""

from __future__ import annotations

from typing import Any

from kit.inference_jobs import NOW, make_document, make_job, observe
from pipemax_operator import names
from pipemax_operator.avoided_nodes import build_releases, derive_condition, describe
from pipemax_operator.exit_codes import GPU_LOST
from pipemax_operator.gpu_losses import (
    MAX_AVOIDED,
    AvoidedNode,
    NodeReview,
    find_avoided,
    losses_as_status,
    review_nodes,
)
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.observed import Observed, ObservedJob, ObservedPod, Termination
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings
from pipemax_worker.job import InferenceJob

WORDS = "GPU GPU-8f3c (stage 3) is lost"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
CHILD = ObservedJob("uid-2", active=1)


def ended(node: str, exit_code: int = GPU_LOST, message: str = WORDS) -> ObservedPod:
    termination = Termination(exit_code, "GpuLost", message, NOW)
    return ObservedPod(f"reviews-0-{node}", "Failed", node=node, termination=termination)


def gated(name: str = "reviews-0-new", **fields: Any) -> ObservedPod:
    return ObservedPod(name, "Pending", uid="uid-9", gates=(names.PLACEMENT_GATE,), **fields)


def made(observed: Observed) -> Plan:
    return plan(make_job(), observed, NOW, OperatorSettings(), "team-a")


def test_a_pods_end_tells_of_its_node() -> None:
    found = find_avoided(observe(CHILD, ended("node-1"), ended("node-2", exit_code=69)))
    assert found == (AvoidedNode("node-1", WORDS),)


def test_what_was_learned_outlives_the_pod_that_told_it() -> None:
    first = made(observe(CHILD, ended("node-1")))
    assert first.status is not None
    assert first.status["avoidedNodes"] == [{"node": "node-1", "message": WORDS}]
    again = made(observe(CHILD, ended("node-2", message="GPU-2"), status=first.status))
    assert again.status is not None
    assert [one["node"] for one in again.status["avoidedNodes"]] == ["node-1", "node-2"]
    assert find_avoided(observe(CHILD, ended("node-1"), status=again.status)) == (
        AvoidedNode("node-1", WORDS),
        AvoidedNode("node-2", "GPU-2"),
    )


def test_the_status_stays_small() -> None:
    pods = [ended(f"node-{number}", message="x" * 5000) for number in range(2 * MAX_AVOIDED)]
    found = find_avoided(observe(CHILD, *pods))
    assert len(found) == MAX_AVOIDED
    assert max(len(one.message) for one in found) <= 4096


def test_a_loss_without_room_in_the_list_is_news_until_there_is() -> None:
    listed = [{"node": f"node-{number:02}", "message": WORDS} for number in range(MAX_AVOIDED)]
    pods = [ended("one-more")]
    full = review_nodes(observe(CHILD, *pods, status={"avoidedNodes": listed}))
    assert "one-more" not in [one.node for one in full.losses]
    status = {"avoidedNodes": listed[1:], "gpuLosses": losses_as_status(full.losses)}
    (fresh,) = review_nodes(observe(CHILD, *pods, status=status)).fresh
    assert (fresh.name, fresh.num_losses) == ("one-more", 1)
    twice = [{"node": "one-more", "count": 1, "lastTime": "2001-01-01T00:00:00Z"}]
    full = review_nodes(observe(CHILD, *pods, status={"avoidedNodes": listed, "gpuLosses": twice}))
    assert ("one-more", 1) in [(one.node, one.count) for one in full.losses]


def test_each_loss_of_a_node_has_words_of_its_own() -> None:
    """Events of the same words at the same time are one."""
    said = {describe([AvoidedNode("node-1", WORDS, count)]) for count in (1, 2, 3)}
    assert len(said) == 3


def test_the_condition_names_node_and_gpu_and_is_told_once() -> None:
    first = made(observe(CHILD, ended("node-1")))
    assert first.status is not None
    (told,) = [c for c in first.status["conditions"] if c["type"] == "GpuLost"]
    assert (told["status"], told["reason"]) == ("True", "GpuLost")
    assert "node node-1 is avoided: GPU GPU-8f3c" in told["message"]
    assert [e.reason for e in first.events if e.is_warning].count("GpuLost") >= 1
    again = made(observe(CHILD, ended("node-1"), status=first.status))
    assert "GpuLost" not in [event.reason for event in again.events]
    assert derive_condition(NodeReview(), {}) is None


def test_a_gated_pod_is_let_go_as_it_is_where_nothing_is_to_be_avoided() -> None:
    (release,) = made(observe(CHILD, gated())).release
    assert release.pod == "reviews-0-new"
    assert release.patch == {
        "metadata": {"uid": "uid-9"},
        "spec": {"schedulingGates": [{"$patch": "delete", "name": "pipemax.dev/placement"}]},
    }


def test_nodes_are_added_to_every_alternative_and_nothing_is_taken_away() -> None:
    """As the API server demands of a change to a gated pod."""
    template = build_batch_job(gpu_job(), Owner("team-a", "uid-1"), OperatorSettings())["spec"][
        "template"
    ]["spec"]
    affinity = template["affinity"]
    new = gated(affinity=affinity)
    (release,) = made(observe(CHILD, ended("node-2"), ended("node-1"), new)).release
    before = affinity["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    after = release.patch["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert len(after) == len(before) == 2
    for old, changed in zip(before, after, strict=True):
        assert changed["matchExpressions"] == old["matchExpressions"]
        assert changed["matchFields"] == [
            {"key": "metadata.name", "operator": "NotIn", "values": [node]}
            for node in ("node-1", "node-2")
        ]
    assert "matchFields" not in str(affinity), "what was observed is not changed"


def test_a_pod_without_affinity_gets_one() -> None:
    (release,) = build_releases(observe(CHILD, gated()), [AvoidedNode("node-1", "")])
    (term,) = release.patch["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert list(term) == ["matchFields"]


def test_only_our_gate_and_only_pods_that_stay() -> None:
    others = ObservedPod("other", "Pending", gates=("kueue.x-k8s.io/topology",))
    leaving = gated("leaving", is_terminating=True)
    assert made(observe(CHILD, others, leaving)).release == ()


def gpu_job(**spec: Any) -> InferenceJob:
    return InferenceJob.model_validate(make_document(**spec))


def test_pods_that_use_gpus_are_gated_and_know_how_many_they_get() -> None:
    def pod_of(job: InferenceJob) -> dict[str, Any]:
        document = build_batch_job(job, Owner("team-a", "uid-1"), OperatorSettings())
        pod: dict[str, Any] = document["spec"]["template"]["spec"]
        return pod

    pod = pod_of(gpu_job(parallelism={"stagesPerNode": 4}))
    assert pod["schedulingGates"] == [{"name": "pipemax.dev/placement"}]
    assert {"name": "PIPEMAX_EXPECTED_GPUS", "value": "4"} in pod["containers"][0]["env"]
    pod = pod_of(gpu_job(engine={"device": "cpu"}))
    assert "schedulingGates" not in pod
    assert "PIPEMAX_EXPECTED_GPUS" not in str(pod)
