"""Whose an object is that has the name of one of a job's children. Pure.

An owner reference with the job's UID makes a child: the API server gives a UID once, while names
and labels are anybody's. What was made by others keeps its name, its content and its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipemax_operator import names

Document = dict[str, Any]


@dataclass(frozen=True)
class TakenName:
    """An object that is not the job's, under the name that a child of it is to have.

    place       its kind, namespace and name, for people.
    owner       whose it is, in words.
    is_leaving  it goes without anybody's doing: the name will be free.
    """

    place: str
    owner: str
    is_leaving: bool = False

    @property
    def message(self) -> str:
        if self.is_leaving:
            return f"waiting until {self.place} is gone: {self.owner}"
        return (
            f"{self.place} was not made for this InferenceJob ({self.owner}), and is left as it "
            "is: delete it, or make the InferenceJob under another name"
        )


def is_owned(uid: str, document: Document) -> bool:
    """Whether the object with that UID is an owner of ``document``."""
    return uid in {reference["uid"] for reference in _owners(document)}


def is_pod_of(job_name: str, pod: Document) -> bool:
    """Whether a batch/v1 Job of the child's name has made ``pod``: the job's own, or one of the
    same name that was there before. A label alone says nothing."""
    child = ("Job", names.child_name(job_name))
    return child in {(one["kind"], one["name"]) for one in _owners(pod)}


def find_taken(job_name: str, uid: str, document: Document) -> TakenName | None:
    """None: ``document`` is a child of the InferenceJob with that name and UID, and stays."""
    metadata = document["metadata"]
    is_deleting = "deletionTimestamp" in metadata
    if is_owned(uid, document) and not is_deleting:
        return None
    place = f"{document['kind']} {metadata['namespace']}/{metadata['name']}"
    own_kind = [one for one in _owners(document) if _is_namesake(job_name, one)]
    if own_kind and not is_deleting:
        owner = "it goes with the InferenceJob of the same name that was deleted"
        return TakenName(place, owner, is_leaving=True)
    if is_deleting:
        return TakenName(place, _describe_deletion(metadata), is_leaving=True)
    return TakenName(place, _describe_owners(document))


def _owners(document: Document) -> Sequence[Document]:
    return document["metadata"].get("ownerReferences") or ()


def _is_namesake(job_name: str, reference: Document) -> bool:
    """An InferenceJob of that name: of two in a row, the UID tells which."""
    group = reference["apiVersion"].partition("/")[0]
    return (group, reference["kind"], reference["name"]) == (names.GROUP, names.KIND, job_name)


def _describe_owners(document: Document) -> str:
    owners = [f"{one['kind']} {one['name']}" for one in _owners(document)]
    return f"it belongs to {', '.join(owners)}" if owners else "it has no owner"


def _describe_deletion(metadata: Document) -> str:
    held = metadata.get("finalizers") or ()
    return f"it is being deleted (finalizers: {', '.join(held)})" if held else "it is being deleted"
