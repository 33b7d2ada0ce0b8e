"""A node that was repaired is used again; one that loses a GPU again and again is not."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import jsonschema
import pytest
from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.avoided_nodes import USED_AGAIN
from pipemax_operator.crd_status import STATUS_SCHEMA
from pipemax_operator.exit_codes import GPU_LOST
from pipemax_operator.gpu_losses import (
    MAX_LOSSES,
    MAX_REMEMBERED,
    MAX_STORED,
    AvoidedNode,
    find_avoided,
    review_nodes,
)
from pipemax_operator.observed import ObservedJob, ObservedNode, ObservedPod, Termination
from pipemax_operator.plan import Plan, plan
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

GPU = "nvidia.com/gpu"
WORDS = "GPU GPU-8f3c (stage 3) is lost"
CHILD = ObservedJob("uid-2", active=1)
VALIDATOR = jsonschema.Draft202012Validator(STATUS_SCHEMA)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def ended(minute: float = 0, node: str = "ill") -> ObservedPod:
    at = NOW + timedelta(minutes=minute)
    return ObservedPod(
        f"reviews-0-{node}-{minute}",
        "Failed",
        node=node,
        termination=Termination(GPU_LOST, "GpuLost", WORDS, at),
    )


def node(
    boot: str = "boot-1", offered: int = 8, has: int = 8, name: str = "ill", is_ready: bool = True
) -> ObservedNode:
    return ObservedNode(name, is_ready, NOW, boot, {GPU: has}, {GPU: offered})


class Story:
    """One job, looked at again and again: its status is the only memory."""

    def __init__(self, status: Document | None = None) -> None:
        self.status: Document = status or {}
        self.pods: tuple[ObservedPod, ...] = ()
        self.now: datetime = NOW

    def look(self, *nodes: ObservedNode, **more: Any) -> Plan:
        observed = observe(CHILD, *self.pods, status=self.status, nodes=nodes or None, **more)
        made = plan(make_job(), observed, self.now, OperatorSettings(), "team-a")
        if made.status is not None:
            self.status = copy.deepcopy(made.status)
        VALIDATOR.validate(self.status)
        return made

    def lose(self, minute: float = 0, name: str = "ill") -> Plan:
        self.pods += (ended(minute, name),)
        return self.look()

    @property
    def avoided(self) -> list[str]:
        return [one["node"] for one in self.status.get("avoidedNodes", ())]


def told(made: Plan) -> list[tuple[str, bool]]:
    """Events about nodes: the job's own standing is told besides."""
    about = [e for e in made.events if "is avoided" in e.message or "is used again" in e.message]
    return [(event.reason, event.is_warning) for event in about]


def test_what_is_seen_of_an_avoided_node_is_kept() -> None:
    story = Story()
    story.lose()
    assert story.status["avoidedNodes"] == [{"node": "ill", "message": WORDS}]
    story.look(node(offered=7))
    assert story.status["avoidedNodes"] == [
        {"node": "ill", "message": WORDS, "bootID": "boot-1", "gpus": 8, "fewestGpus": 7}
    ]
    assert story.look(node(offered=7)).status is None, "nothing new: nothing is written"


def test_a_node_that_was_started_anew_is_used_again() -> None:
    story = Story()
    story.lose()
    story.look(node())
    made = story.look(node("boot-2"))
    assert story.avoided == []
    assert told(made) == [(USED_AGAIN, False)]
    (text,) = (event.message for event in made.events if event.reason == USED_AGAIN)
    assert "node ill is used again: it was started anew and offers 8" in text
    assert WORDS in text
    (said,) = (c for c in story.status["conditions"] if c["type"] == "GpuLost")
    assert (said["status"], said["reason"]) == ("False", USED_AGAIN)
    again = story.look()
    assert (again.status, again.events) == (None, ()), "the pod that told of it was counted"


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (node(), "the same boot, and all GPUs all the time"),
        (node("boot-2", is_ready=False), "it does not answer yet"),
        (node("boot-2", offered=0), "its device plugin has not looked yet"),
        (node("boot-2", name="other"), "another node"),
        (node(offered=7), "a GPU is missing"),
        (node(offered=7, has=7), "a GPU is missing for good"),
        (node(boot=""), "nothing is known of its boot"),
    ],
)
def test_what_is_no_repair(seen: ObservedNode, why: str) -> None:
    story = Story()
    story.lose()
    story.look(node())
    story.look(seen)
    assert story.avoided == ["ill"], why


def test_gpus_that_come_back_without_a_new_start_are_a_repair() -> None:
    """As the device plugin takes a GPU that is ill out of what the node offers, and gives it back
    once it is reset."""
    story = Story()
    story.lose()
    story.look(node(offered=6))
    assert told(story.look(node(offered=7))) == []
    assert told(story.look(node(offered=8))) == [(USED_AGAIN, False)]
    assert story.avoided == []


def test_a_machine_that_was_away_for_a_while_is_no_repair() -> None:
    story = Story()
    story.lose()
    for seen in (node(), node(is_ready=False), node()):
        story.look(seen)
    assert story.avoided == ["ill"]


@pytest.mark.parametrize("away", [node(offered=0), node(offered=0, has=0)])
def test_a_kubelet_or_a_plugin_that_was_started_anew_is_no_repair(away: ObservedNode) -> None:
    """As a real kubelet shows them: no GPUs at all, then all. Both happen with every upgrade."""
    story = Story()
    story.lose()
    for seen in (away, node(), away, node()):
        story.look(seen)
    assert story.avoided == ["ill"]
    assert story.status["avoidedNodes"][0]["fewestGpus"] == 8


def test_a_device_plugin_that_comes_back_with_fewer_gpus_is_none() -> None:
    story = Story()
    story.lose()
    story.look(node())
    for seen in (node(offered=0), node(offered=0, has=0), node(offered=7, has=7)):
        story.look(seen)
    assert story.avoided == ["ill"]


def test_the_resource_is_the_jobs_own() -> None:
    story = Story()
    story.lose()
    story.look(node(), gpu_resource="amd.com/gpu")
    story.look(node("boot-2"), gpu_resource="amd.com/gpu")
    assert story.avoided == ["ill"], "it offers none of those"


def test_a_node_that_loses_gpus_again_and_again_stays_avoided() -> None:
    story = Story()
    for number in range(1, MAX_LOSSES):
        story.lose(minute=number)
        story.look(node(f"boot-{number}"))
        story.look(node(f"boot-{number + 1}"))
        assert story.avoided == []
        assert story.status["gpuLosses"][0]["count"] == number
    made = story.lose(minute=MAX_LOSSES)
    assert told(made) == [("GpuLost", True)]
    story.look(node(f"boot-{MAX_LOSSES}"))
    story.look(node("boot-another", offered=7))
    story.look(node("boot-another"))
    assert story.avoided == ["ill"]
    (said,) = (c for c in story.status["conditions"] if c["type"] == "GpuLost")
    assert "until it is taken from status.avoidedNodes (GPUs lost 3 times)" in said["message"]


@pytest.mark.parametrize("leaves_an_empty_list", [True, False])
def test_who_takes_a_node_from_the_list_is_obeyed(leaves_an_empty_list: bool) -> None:
    """The pod that told of it is still there; a new one counts."""
    story = Story()
    for minute in (1, 2, 3):
        story.lose(minute)
        del story.status["avoidedNodes"]
        if leaves_an_empty_list:
            story.status["avoidedNodes"] = []
        made = story.look(node())
        assert story.look(node()).status is None
        assert story.avoided == []
        assert told(made) == []
    made = story.lose(minute=4)
    assert story.avoided == ["ill"]
    assert story.status["gpuLosses"] == [
        {"node": "ill", "count": 4, "lastTime": "2026-11-22T12:04:00Z"}
    ]


def test_pods_that_lost_a_gpu_on_the_same_node_together_are_one_loss() -> None:
    story = Story()
    story.pods = (ended(1), ended(2))
    made = story.look()
    assert told(made) == [("GpuLost", True)]
    assert story.status["gpuLosses"][0]["count"] == 1
    story.lose(minute=3)
    assert story.status["gpuLosses"][0]["count"] == 1
    assert story.status["gpuLosses"][0]["lastTime"] == "2026-11-22T12:03:00Z"


def test_a_list_that_an_older_operator_wrote_goes_on() -> None:
    old = {"avoidedNodes": [{"node": "ill", "message": WORDS}]}
    story = Story(old)
    story.pods = (ended(1),)
    story.look(node())
    assert story.status["gpuLosses"] == [
        {"node": "ill", "count": 1, "lastTime": "2026-11-22T12:01:00Z"}
    ]
    story.look(node("boot-2"))
    assert story.avoided == []
    found = find_avoided(observe(CHILD, status=old))
    assert found == (AvoidedNode("ill", WORDS),)


def test_one_nodes_repair_is_no_news_of_the_others() -> None:
    story = Story()
    story.lose(1, "ill")
    story.lose(2, "also-ill")
    both = (node("boot-1"), node("boot-1", name="also-ill"))
    story.look(*both)
    made = story.look(node("boot-2"), both[1])
    assert story.avoided == ["also-ill"]
    assert told(made) == [(USED_AGAIN, False)]
    (said,) = (c for c in story.status["conditions"] if c["type"] == "GpuLost")
    assert (said["status"], said["reason"]) == ("True", "GpuLost")


def test_without_the_right_to_see_nodes_none_is_forgiven() -> None:
    story = Story()
    story.lose()
    assert story.look().status is None
    assert story.avoided == ["ill"]


def test_an_empty_list_is_written_on() -> None:
    """Somebody else's field stays as it is if it is left out."""
    story = Story()
    story.lose()
    story.look(node())
    story.look(node("boot-2"))
    assert story.status["avoidedNodes"] == []
    assert story.look(node("boot-2")).status is None


def test_the_memory_is_bounded() -> None:
    many = [
        {"node": f"node-{number}", "count": 1, "lastTime": f"2026-11-22T10:{number % 60:02}:00Z"}
        for number in range(2 * MAX_REMEMBERED)
    ]
    review = review_nodes(observe(CHILD, ended(), status={"gpuLosses": many}))
    assert len(review.losses) == MAX_REMEMBERED
    assert "ill" in [one.node for one in review.losses]


def rotate_through(story: Story, num_nodes: int) -> None:
    """One node after the other loses a GPU, is repaired and used again; its pod lies about."""
    for number in range(num_nodes):
        name = f"node-{number}"
        story.lose(minute=number, name=name)
        story.look(node("boot-1", name=name))
        story.look(node("boot-2", name=name))


def test_a_loss_is_known_as_long_as_the_pod_that_told_of_it_is_there() -> None:
    """Forgotten, it would be news again: a node that is well would be avoided, and told of."""
    story = Story()
    rotate_through(story, MAX_REMEMBERED + 6)
    assert len(story.status["gpuLosses"]) == MAX_REMEMBERED + 6
    made = story.look()
    assert story.avoided == []
    assert (made.events, made.status) == ((), None)


def test_the_count_stays_while_a_worker_runs_there() -> None:
    """It may lose the next GPU, and the third is one too many."""
    story = Story()
    twice = {"node": "ill", "count": 2, "lastTime": "2026-11-22T09:00:00Z"}
    story.status["gpuLosses"] = [twice]
    running = ObservedPod("reviews-0-now", "Running", node="ill")
    story.pods = (running,)
    rotate_through(story, MAX_REMEMBERED)
    assert twice in story.status["gpuLosses"]
    story.pods = tuple(pod for pod in story.pods if pod is not running)
    story.lose(minute=600)
    assert AvoidedNode("ill", WORDS, 3).stays
    assert story.status["gpuLosses"][0] == {**twice, "count": 3, "lastTime": "2026-11-22T22:00:00Z"}


def test_what_is_over_goes() -> None:
    story = Story()
    rotate_through(story, MAX_REMEMBERED + 6)
    story.pods = ()
    story.look()
    names = [one["node"] for one in story.status["gpuLosses"]]
    assert sorted(names) == sorted(f"node-{n}" for n in range(6, MAX_REMEMBERED + 6)), "the oldest"
    assert story.look().status is None


def test_there_is_room_for_all_that_the_crd_takes_and_no_more() -> None:
    assert STATUS_SCHEMA["properties"]["gpuLosses"]["maxItems"] == MAX_STORED
    many = [{"node": f"node-{n}", "count": 1} for n in range(MAX_STORED)]
    pods = [ObservedPod(f"p-{n}", "Running", node=f"node-{n}") for n in range(MAX_STORED)]
    review = review_nodes(observe(CHILD, *pods, ended(), status={"gpuLosses": many}))
    assert len(review.losses) == MAX_STORED
    assert "ill" in [one.node for one in review.losses], "the newest"


def waiting_pod(*nodes: str, reason: str = "Unschedulable", **fields: Any) -> ObservedPod:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [one]}]}
             for one in nodes]  # fmt: skip
    merged = {"matchFields": [field for term in terms for field in term["matchFields"]]}
    affinity = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [merged]}}}
    return ObservedPod(
        "reviews-0-new", "Pending", uid="uid-9", affinity=affinity, waiting=(reason, ""), **fields
    )


def test_a_pod_that_waits_for_others_makes_room_for_one_that_may_go_there() -> None:
    """Its affinity was fixed when its gate was opened."""
    story = Story()
    story.lose(1, "ill")
    story.lose(2, "also-ill")
    story.look(node(), node(name="also-ill"))
    story.pods += (waiting_pod("ill", "also-ill"),)
    assert story.look(node(), node(name="also-ill")).renew == ()
    ((pod, why),) = story.look(node("boot-2"), node(name="also-ill")).renew
    assert pod.name == "reviews-0-new"
    assert why == "it keeps away from node ill, which is used again"


@pytest.mark.parametrize(
    "pod",
    [
        waiting_pod(),
        waiting_pod("ill", reason="SchedulingGated"),
        waiting_pod("ill", node="well"),
        waiting_pod("ill", is_terminating=True),
        waiting_pod("quarantined-by-others"),
    ],
)
def test_other_pods_are_left_alone(pod: ObservedPod) -> None:
    story = Story({"gpuLosses": [{"node": "ill", "count": 1}]})
    story.pods = (pod,)
    assert story.look().renew == ()
    story.pods = (waiting_pod("ill"),)
    assert len(story.look().renew) == 1, "it is used again"
