"""No field is passed over in silence."""

from typing import Any

import pytest
from kit.jobs import JobFolder
from pipemax_worker.errors import JobFileError
from pipemax_worker.job.load import load_job
from pipemax_worker.runner.support import refuse_unsupported_fields

NVME = {"emptyDir": {}, "size": "1Mi"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kvCache.nvme": NVME | {"writesPerDay": "1Gi"}}, "spec.kvCache.nvme.writesPerDay"),
    ],
)
def test_a_field_without_effect_is_refused_by_name(
    job: JobFolder, changes: dict[str, Any], field: str
) -> None:
    job_file = job.write(changes)
    with pytest.raises(JobFileError, match=f"job.yaml: {field}: not supported"):
        refuse_unsupported_fields(load_job(job_file), job_file)


def test_what_speaks_to_the_cluster_is_fine_here(job: JobFolder) -> None:
    job_file = job.write(
        {
            "kvCache.nvme": NVME,
            "credentials": {"secretRef": {"name": "keys"}},
            "scheduling": {"queueName": "team", "nodeSelector": {"gpu": "4090"}},
            "ttlSecondsAfterFinished": 60,
            "image": "registry/worker:1",
            "gracePeriodSeconds": 30,
            "deadline": "1h",
        }
    )
    refuse_unsupported_fields(load_job(job_file), job_file)
