"""Whose an object is: by the UID in its owner references, never by name or label."""

from __future__ import annotations

from typing import Any

import pytest
from kit.inference_jobs import make_job
from pipemax_operator import names
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.ownership import TakenName, find_taken, is_owned, is_pod_of
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

OURS = Owner("team-a", "uid-1")
WHEN = {"deletionTimestamp": "2026-11-22T12:00:00Z"}
WEB = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "uid-9"}


def own_child(owner: Owner = OURS, **metadata: Any) -> Document:
    document = build_config_map(make_job(), owner, OperatorSettings())
    return {**document, "metadata": {**document["metadata"], **metadata}}


def judge(document: Document) -> TakenName | None:
    return find_taken("reviews", "uid-1", document)


@pytest.mark.parametrize("build", [build_config_map, build_batch_job])
def test_what_we_make_is_ours(build: Any) -> None:
    assert judge(build(make_job(), OURS, OperatorSettings())) is None


def test_another_owner_besides_changes_nothing() -> None:
    both = [WEB, *own_child()["metadata"]["ownerReferences"]]
    assert judge(own_child(ownerReferences=both)) is None


@pytest.mark.parametrize(
    ("owners", "words"),
    [
        (None, "it has no owner"),
        ([], "it has no owner"),
        ([WEB], "it belongs to Deployment web"),
        ([{**WEB, "kind": names.KIND, "name": "reviews"}], "it belongs to InferenceJob reviews"),
        (
            [{**WEB, "apiVersion": names.API_VERSION, "kind": names.KIND, "name": "others"}],
            "it belongs to InferenceJob others",
        ),
    ],
)
def test_what_others_made_is_theirs_whatever_its_labels_say(
    owners: list[Document] | None, words: str
) -> None:
    found = judge(own_child(ownerReferences=owners))
    assert found is not None
    assert not found.is_leaving
    assert found.message == (
        f"ConfigMap team-a/reviews was not made for this InferenceJob ({words}), and is left as "
        "it is: delete it, or make the InferenceJob under another name"
    )


def test_a_deleted_namesakes_child_goes_by_itself() -> None:
    found = judge(own_child(Owner("team-a", "uid-0")))
    assert found is not None
    assert found.is_leaving
    assert "ConfigMap team-a/reviews is gone: it goes with the InferenceJob" in found.message


@pytest.mark.parametrize("owner", ["uid-0", "uid-1"])
def test_what_is_being_deleted_goes_whosever_it_is(owner: str) -> None:
    found = judge(own_child(Owner("team-a", owner), **WHEN, finalizers=["example.com/hold"]))
    assert found is not None
    assert found.is_leaving
    assert found.message.endswith("it is being deleted (finalizers: example.com/hold)")
    someones = judge(own_child(ownerReferences=[WEB], **WHEN))
    assert someones is not None
    assert (someones.is_leaving, someones.owner) == (True, "it is being deleted")


def test_owners_by_uid() -> None:
    assert is_owned("uid-1", own_child())
    assert not is_owned("uid-0", own_child())
    assert not is_owned("uid-1", own_child(ownerReferences=[]))


@pytest.mark.parametrize(
    ("owners", "is_ours"),
    [
        ([{"kind": "Job", "name": "reviews", "uid": "uid-2"}], True),
        ([{"kind": "Job", "name": "others", "uid": "uid-2"}], False),
        ([{"kind": "ReplicaSet", "name": "reviews", "uid": "uid-2"}], False),
        (None, False),
    ],
)
def test_a_label_makes_no_worker(owners: list[Document] | None, is_ours: bool) -> None:
    labels = names.child_labels("reviews")
    pod = {"metadata": {"name": "p", "labels": labels, "ownerReferences": owners}}
    assert is_pod_of("reviews", pod) is is_ours
