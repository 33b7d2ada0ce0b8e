"""What a changed spec does to a job that runs."""

from __future__ import annotations

from dataclasses import replace

from kit.inference_jobs import NOW, make_job, observe
from pipemax_operator.observed import ObservedJob
from pipemax_operator.plan import plan
from pipemax_operator.settings import OperatorSettings

SETTINGS = OperatorSettings()
CHILD = ObservedJob("uid-2", active=1, ready=1)
KNOWN = observe(CHILD, status={"observedGeneration": 1})


def test_nodes_come_and_go() -> None:
    job = make_job(parallelism={"nodes": 3})
    made = plan(job, KNOWN, NOW, SETTINGS, "team-a")
    assert made.child_changes == {"completions": 3, "parallelism": 3, "maxFailedIndexes": 3}
    three = replace(KNOWN, job=replace(CHILD, num_indexes=3))
    assert plan(job, three, NOW, SETTINGS, "team-a").child_changes == {}


def test_the_job_file_is_written_anew_for_workers_that_start_later() -> None:
    job = make_job(errorPolicy={"maxFailedCount": 9})
    assert plan(job, KNOWN, NOW, SETTINGS, "team-a").apply == ()
    changed = replace(KNOWN, generation=2)
    (config_map,) = plan(job, changed, NOW, SETTINGS, "team-a").apply
    assert config_map["kind"] == "ConfigMap"
    assert "maxFailedCount: 9" in config_map["data"]["job.yaml"]
    status = plan(job, changed, NOW, SETTINGS, "team-a").status
    assert status is not None
    settled = replace(changed, status=status)
    assert plan(job, settled, NOW, SETTINGS, "team-a").apply == ()
