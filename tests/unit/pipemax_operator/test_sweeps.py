"""Which sweeps are made, what they may do, and what they say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kit.folder_cluster import SETTINGS, START
from pipemax_operator.disk_times import LOOK_SECONDS, DiskTimes
from pipemax_operator.manifests.sweep_job import SWEEP_LABEL, build_sweep_job, parse_sweep_job
from pipemax_operator.nvme_records import NvmeRecord, build_record, parse_record
from pipemax_operator.sweeps import (
    FORGET_AFTER,
    MAX_SWEEPS,
    MAX_UIDS,
    Disk,
    FoundFolder,
    ObservedSweep,
    Sweep,
    SweepReport,
    is_forgettable,
    parse_report,
    plan_sweeps,
)
from pipemax_worker.cli.main import build_parser

LIVE = NvmeRecord("uid-1", "team-a", "reviews", "/nvme", ("node-1", "node-2"))
DEAD = NvmeRecord("uid-2", "team-a", "other", "/nvme", ("node-2", "node-3"), START)
N2, N3 = Disk("node-2", "/nvme"), Disk("node-3", "/nvme")


class TestPlan:
    def test_only_what_is_dead_is_swept_and_only_where_it_was(self) -> None:
        assert plan_sweeps([LIVE, DEAD], (), ()) == (
            Sweep(N2, ("uid-2",)),
            Sweep(N3, ("uid-2",)),
        )

    def test_one_sweep_a_disk_at_a_time(self) -> None:
        other = NvmeRecord("uid-3", "b", "c", "/nvme", ("node-2",), START)
        assert plan_sweeps([DEAD, other], {N3}, ()) == (Sweep(N2, ("uid-2", "uid-3")),)

    def test_two_roots_of_a_node_are_two_disks(self) -> None:
        other = NvmeRecord("uid-3", "b", "c", "/scratch", ("node-2",), START)
        disks = [sweep.disk for sweep in plan_sweeps([DEAD, other], (), ())]
        assert disks == [N2, N3, Disk("node-2", "/scratch")]

    def test_a_look_names_nobody(self) -> None:
        assert plan_sweeps([LIVE], (), {N2}) == (Sweep(N2),)
        assert plan_sweeps([DEAD], (), {N2}) == plan_sweeps([DEAD], (), ())

    def test_disks_that_wait(self) -> None:
        assert plan_sweeps([DEAD], (), (), lambda disk: disk == N3) == (Sweep(N3, ("uid-2",)),)

    def test_limits(self) -> None:
        many = [NvmeRecord(f"u{n}", "a", "b", "/nvme", ("node-1",), START) for n in range(60)]
        assert [len(sweep.uids) for sweep in plan_sweeps(many, (), ())] == [MAX_UIDS]
        nodes = tuple(f"node-{number}" for number in range(300))
        wide = NvmeRecord("uid-3", "b", "c", "/nvme", nodes, START)
        assert len(plan_sweeps([wide], {N2, N3}, ())) == MAX_SWEEPS - 2

    def test_what_may_be_forgotten(self) -> None:
        later = START + FORGET_AFTER + timedelta(seconds=1)
        assert not is_forgettable(LIVE, later)
        assert not is_forgettable(DEAD, START)
        assert is_forgettable(DEAD, later)
        assert is_forgettable(DEAD.without_node("node-2").without_node("node-3"), START)
        assert not is_forgettable(LIVE.without_node("node-1").without_node("node-2"), later)


class TestRecord:
    @pytest.mark.parametrize("record", [LIVE, DEAD])
    def test_it_reads_what_it_wrote(self, record: NvmeRecord) -> None:
        document = build_record(record, SETTINGS)
        assert parse_record(document) == record
        assert document["metadata"]["namespace"] == "pipemax-system"
        assert "ownerReferences" not in document["metadata"], "it outlives the job"

    @pytest.mark.parametrize("data", [{}, {"record.json": "{}"}, {"record.json": "[1]"}])
    def test_another_ones(self, data: dict[str, str]) -> None:
        assert parse_record({"data": data}) is None

    def test_an_end_is_one_for_ever(self) -> None:
        assert DEAD.ended(START + timedelta(days=1)) == DEAD
        assert DEAD.with_nodes(["node-1"]).ended_at == START

    def test_nodes_are_kept_once(self) -> None:
        assert LIVE.with_nodes(["node-1"]) == LIVE
        assert LIVE.with_nodes(["node-0"]).nodes == ("node-0", "node-1", "node-2")


class TestJob:
    def pod(self) -> dict[str, Any]:
        document = build_sweep_job(Sweep(N2, ("uid-1", "uid-2")), SETTINGS, "1")
        pod: dict[str, Any] = document["spec"]["template"]["spec"]
        return pod

    def test_it_is_what_it_was_made_from(self) -> None:
        sweep = Sweep(N2, ("uid-1", "uid-2"))
        document = build_sweep_job(sweep, SETTINGS, "1")
        name = document["metadata"]["name"]
        assert parse_sweep_job(document) == ObservedSweep(name, sweep)
        document["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
        assert parse_sweep_job(document) == ObservedSweep(name, sweep, is_over=True)
        assert parse_sweep_job({"metadata": {"name": "x"}}) is None

    def test_a_queue_of_its_own_where_one_is_given(self) -> None:
        """On the Job alone: a pod with Kueue's label would be one of its own."""
        label = "kueue.x-k8s.io/queue-name"
        queued = build_sweep_job(Sweep(N2), replace(SETTINGS, sweep_queue_name="chores"), "1")
        assert queued["metadata"]["labels"][label] == "chores"
        assert label not in queued["spec"]["template"]["metadata"]["labels"]
        assert label not in build_sweep_job(Sweep(N2), SETTINGS, "1")["metadata"]["labels"]
        assert "suspend" not in queued["spec"], "that is Kueue's field"

    def test_one_that_is_suspended_is_held(self) -> None:
        document = build_sweep_job(Sweep(N2), SETTINGS, "1")
        document["spec"]["suspend"] = True
        held = parse_sweep_job(document)
        assert held is not None
        assert (held.is_held, held.is_over) == (True, False)

    def test_each_attempt_has_a_name_of_its_own(self) -> None:
        names = {
            build_sweep_job(Sweep(N2), SETTINGS, attempt)["metadata"]["name"]
            for attempt in ("1", "2")
        }
        assert len(names) == 2
        assert all(len(name) <= 63 for name in names)

    def test_no_event_of_it_is_taken_for_a_jobs(self) -> None:
        labels = build_sweep_job(Sweep(N2), SETTINGS, "1")["metadata"]["labels"]
        assert labels[SWEEP_LABEL] == "pipemax"
        assert "pipemax.dev/inferencejob" not in labels

    def test_it_runs_on_that_node_whatever_its_taints_and_waits_for_it(self) -> None:
        pod = self.pod()
        required = pod["affinity"]["nodeAffinity"]
        (term,) = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        node = {"key": "metadata.name", "operator": "In", "values": ["node-2"]}
        assert term == {"matchFields": [node]}
        assert pod["tolerations"] == [{"operator": "Exists"}]
        assert "activeDeadlineSeconds" not in pod

    def test_it_may_remove_and_little_else(self) -> None:
        pod = self.pod()
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
        assert context["readOnlyRootFilesystem"] is True
        assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/nvme"]

    def test_the_worker_understands_its_arguments(self) -> None:
        (container,) = self.pod()["containers"]
        options = build_parser().parse_args(container["args"])
        assert options.uid == ["uid-1", "uid-2"]
        assert str(options.root) == container["volumeMounts"][0]["mountPath"]
        assert options.wait_seconds > 0


class TestReport:
    def test_all_of_it(self) -> None:
        text = (
            '{"removed": ["a"], "busy": ["b"], "failed": {"c": "why"},'
            ' "left": [{"uid": "d", "namespace": "n", "name": "j"}]}'
        )
        left = (FoundFolder("d", "n", "j"),)
        assert parse_report(text) == SweepReport(("a",), ("b",), (("c", "why"),), left)

    @pytest.mark.parametrize("text", ["", "Traceback", "[]", '{"left": [{"uid": 1}]}'])
    def test_anything_else(self, text: str) -> None:
        assert parse_report(text) is None


class TestDiskTimes:
    def test_waiting(self) -> None:
        clock = [0.0]
        times = DiskTimes(lambda: clock[0])
        assert times.is_due(N2)
        times.wait(N2, 15)
        assert times.seconds_left(N2) == 15
        clock[0] = 15
        assert times.is_due(N2)

    def test_each_disk_is_looked_at_once_in_a_while_and_not_all_at_once(self) -> None:
        clock = [0.0]
        times = DiskTimes(lambda: clock[0])
        disks = {Disk(f"node-{number}", "/nvme") for number in range(200)}
        seen: list[Disk] = []
        for hour in range(12):
            clock[0] = hour * LOOK_SECONDS / 6
            stale = times.stale(disks)
            assert len(stale) < 60
            for disk in stale:
                times.note_look(disk)
            seen += stale
        assert set(seen) == disks
        assert len(seen) < 2.5 * len(disks)
