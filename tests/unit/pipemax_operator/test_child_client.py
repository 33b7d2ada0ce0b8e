"""Children are made by a create: what has their name and is somebody else's stays as it is."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from kit.fake_api_server import FakeApiServer
from kit.inference_jobs import make_job
from pipemax_operator.api_server import ConflictError
from pipemax_operator.child_client import ChildClient, path_of
from pipemax_operator.manifests.batch_job import build_batch_job
from pipemax_operator.manifests.config_map import build_config_map
from pipemax_operator.manifests.metadata import Owner
from pipemax_operator.ownership import TakenName
from pipemax_operator.settings import OperatorSettings

Document = dict[str, Any]

SETTINGS = OperatorSettings()
BUILDS = (build_config_map, build_batch_job)


def child(build: Any, uid: str = "uid-1", **spec: Any) -> Document:
    document: Document = build(make_job(**spec), Owner("team-a", uid), SETTINGS)
    return document


def make(api: FakeApiServer, document: Document) -> TakenName | None:
    return asyncio.run(ChildClient(api).make(document))  # type: ignore[arg-type]


@pytest.mark.parametrize("build", BUILDS)
def test_one_call_where_the_name_is_free(build: Any) -> None:
    api, document = FakeApiServer(), child(build)
    assert make(api, document) is None
    assert [method for method, _ in api.calls] == ["POST"]
    assert api.objects[path_of(document)]["metadata"]["labels"] == document["metadata"]["labels"]


@pytest.mark.parametrize("build", BUILDS)
def test_what_somebody_else_has_made_is_left_as_it_is(build: Any) -> None:
    api, document = FakeApiServer(), child(build)
    others = {"metadata": {"namespace": "team-a", "name": "reviews"}, "data": {"theirs": "1"}}
    api.put(path_of(document), others)
    before = copy.deepcopy(api.objects)
    taken = make(api, document)
    assert taken is not None
    assert taken.place == f"{document['kind']} team-a/reviews"
    assert not taken.is_leaving
    assert api.objects == before
    assert [method for method, _ in api.calls] == ["POST", "GET"]


@pytest.mark.parametrize("build", BUILDS)
def test_a_predecessors_child_is_left_to_the_garbage_collector(build: Any) -> None:
    api = FakeApiServer()
    make(api, child(build, uid="uid-0"))
    before = copy.deepcopy(api.objects)
    taken = make(api, child(build))
    assert taken is not None
    assert taken.is_leaving
    assert api.objects == before


def test_the_jobs_own_file_is_brought_up_to_date() -> None:
    """By the version that was looked at: who comes between makes it a conflict."""
    api = FakeApiServer()
    make(api, child(build_config_map))
    newer = child(build_config_map, deadline="1h")
    assert make(api, newer) is None
    assert api.objects[path_of(newer)]["data"] == newer["data"]
    assert [method for method, _ in api.calls] == ["POST", "POST", "GET", "PATCH"]


def test_the_jobs_own_child_gets_back_the_labels_that_it_is_found_by() -> None:
    """Somebody took them away, so that no watch shows it; its pods' template cannot be written."""
    api, document = FakeApiServer(), child(build_batch_job)
    bare = {**document, "metadata": {**document["metadata"], "labels": {}}}
    api.put(path_of(document), bare)
    assert make(api, child(build_batch_job, deadline="1h")) is None
    found = api.objects[path_of(document)]
    assert found["metadata"]["labels"] == document["metadata"]["labels"]
    assert found["spec"] == document["spec"]


class TakenBetween(FakeApiServer):
    """Somebody replaces the object between our look and our write; or takes it away before."""

    replacement: Document | None = None

    async def call(self, method: str, path: str, *more: Any, **named: Any) -> Document | None:
        if method == "GET" and self.replacement is None:
            del self.objects[path]
        found = await super().call(method, path, *more, **named)
        if method == "GET" and self.replacement is not None:
            self.put(path, self.replacement)
        return found


def test_nothing_is_written_over_what_came_between() -> None:
    api, document = TakenBetween(), child(build_config_map)
    make(api, document)
    api.replacement = {"metadata": {"namespace": "team-a", "name": "reviews"}, "data": {"a": "b"}}
    with pytest.raises(ConflictError):
        make(api, document)
    assert api.objects[path_of(document)]["data"] == {"a": "b"}


def test_what_went_meanwhile_is_made_at_the_next_turn() -> None:
    api, document = TakenBetween(), child(build_config_map)
    make(api, document)
    with pytest.raises(ConflictError, match="is gone"):
        make(api, document)
    assert make(api, document) is None
