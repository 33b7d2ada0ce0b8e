"""The wire for a job's children: made once, and never out of what somebody else has made."""

from __future__ import annotations

from typing import Any

from pipemax_operator import api_verbs
from pipemax_operator.api_server import ApiServer, ConflictError
from pipemax_operator.ownership import TakenName, find_taken

Document = dict[str, Any]


class ChildClient:
    """Over one API server."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def make(self, document: Document) -> TakenName | None:
        """Make the child, or bring the job's own up to date: a ConfigMap as a whole, of a Job,
        whose pods cannot be changed, the labels that we find it by. What is not the job's stays as
        it is, and is returned. Raises ConflictError where it has changed on the way.

        A create and not an apply, which would take over whatever has the name.
        """
        path = path_of(document)
        try:
            await api_verbs.create(self._api, path.rpartition("/")[0], document)
        except ConflictError:
            return await self._bring_up_to_date(path, document)
        return None

    async def _bring_up_to_date(self, path: str, document: Document) -> TakenName | None:
        found = await self._api.call("GET", path, missing_is_fine=True)
        if found is None:
            raise ConflictError(f"{path}: it was there, and is gone")
        (owner,) = document["metadata"]["ownerReferences"]
        taken = find_taken(owner["name"], owner["uid"], {**found, "kind": document["kind"]})
        if taken is not None:
            return taken
        version = found["metadata"]["resourceVersion"]
        if document["kind"] == "Job":
            metadata = {"resourceVersion": version, "labels": document["metadata"]["labels"]}
            await api_verbs.merge(self._api, path, {"metadata": metadata})
        else:
            metadata = {**document["metadata"], "resourceVersion": version}
            await api_verbs.apply(self._api, path, {**document, "metadata": metadata})
        return None


def path_of(document: Document) -> str:
    """Of a ConfigMap or a Job."""
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    if document["kind"] == "Job":
        return batch_job_path(namespace, name)
    return f"/api/v1/namespaces/{namespace}/{document['kind'].lower()}s/{name}"


def batch_job_path(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
