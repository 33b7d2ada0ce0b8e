"""For each alert what provokes it, and what is close to it and must not.

Series are promtool's: a value a minute, ``a+bxN`` grows by b, ``axN`` stays. Each scene is looked
at ``minute``, and has a namespace of its own, so that all can be played at once.
"""

from __future__ import annotations

from dataclasses import dataclass

JOB = 'namespace="NAMESPACE", job="reviews"'
WORKER = f'{JOB}, pod="reviews-0", node="a"'
OPERATOR = 'namespace="NAMESPACE", instance="10.0.0.1:9401"'

NAMESPACE = "NAMESPACE"
Series = dict[str, str]


@dataclass(frozen=True)
class Scene:
    """``fires`` and ``silent``: the same series with values that do and do not provoke it."""

    fires: Series
    silent: Series
    minute: int = 60


def both(names: dict[str, tuple[str, str]], minute: int = 60) -> Scene:
    """Of series with the values that fire and those that do not."""
    fires = {name: values[0] for name, values in names.items()}
    return Scene(fires, {name: values[1] for name, values in names.items()}, minute)


def tier(name: str) -> Scene:
    used = f'pipemax_kv_blocks{{{WORKER}, tier="{name}", state="used"}}'
    cached = f'pipemax_kv_blocks{{{WORKER}, tier="{name}", state="cached"}}'
    free = f'pipemax_kv_blocks{{{WORKER}, tier="{name}", state="free"}}'
    return both({used: ("98x60", "20x60"), cached: ("1x60", "79x60"), free: ("1x60", "1x60")})


def generated(labels: str = WORKER) -> str:
    return f'pipemax_tokens_total{{{labels}, kind="generated"}}'


def requests(result: str) -> str:
    return f'pipemax_requests_total{{{WORKER}, result="{result}"}}'


def stage(state: str) -> str:
    return f'pipemax_stage_seconds_total{{{WORKER}, stage="0", state="{state}"}}'


SCENES: dict[str, Scene] = {
    "PipeMaxNoProgress": both(
        {
            generated(): ("0+600x20 12000x60", "0+600x80"),
            # A worker that has nothing left stands still while another one works.
            f'pipemax_tokens_total{{{JOB}, pod="reviews-1", kind="prompt"}}': ("900x80", "900x80"),
        },
        minute=50,
    ),
    "PipeMaxErrorRatioHigh": both(
        {
            requests("succeeded"): ("0+90x60", "0+97x60"),
            requests("failed"): ("0+10x60", "0+3x60"),
        }
    ),
    "PipeMaxEtaBeyondDeadline": both(
        {
            f"pipemax_job_eta_timestamp_seconds{{{JOB}}}": ("9000x60", "7000x60"),
            f"pipemax_job_deadline_timestamp_seconds{{{JOB}}}": ("8000x60", "8000x60"),
        }
    ),
    "PipeMaxStallShareHigh": both(
        {
            stage("compute"): ("0+30x60", "0+50x60"),
            stage("stall"): ("0+20x60", "0+5x60"),
            stage("wait"): ("0+10x60", "0+5x60"),
        }
    ),
    "PipeMaxThroughputDropped": both(
        {generated(): ("0+60000x120 7200000+20000x60", "0+60000x120 7200000+45000x60")}, minute=150
    ),
    "PipeMaxPipelineRestarts": both(
        {f"pipemax_pipeline_restarts_total{{{WORKER}}}": ("0+1x5 5x55", "0x30 1x30")}
    ),
    "PipeMaxHostTierExhausted": tier("host"),
    "PipeMaxNvmeFilling": tier("nvme"),
    "PipeMaxNvmeErrors": both({f"pipemax_nvme_io_errors_total{{{WORKER}}}": ("0x50 3x10", "3x60")}),
    "PipeMaxOperatorDown": both(
        {
            'kube_deployment_status_replicas_available{namespace="NAMESPACE", '
            'deployment="pipemax"}': ("0x60", "1x60")
        }
    ),
    "PipeMaxOperatorWithoutLeader": Scene(
        {f"pipemax_operator_leading{{{OPERATOR}}}": "0x60"},
        {
            f"pipemax_operator_leading{{{OPERATOR}}}": "1x60",
            'pipemax_operator_leading{namespace="NAMESPACE", instance="10.0.0.2:9401"}': ("0x60"),
        },
    ),
    "PipeMaxReconcileErrors": both(
        {f"pipemax_reconcile_errors_total{{{OPERATOR}}}": ("0+10x60", "0+1x60")}
    ),
    "PipeMaxWatchesMissObjects": both(
        {f"pipemax_watch_missed_objects_total{{{OPERATOR}}}": ("0+1x60", "0x30 5x30")}
    ),
    "PipeMaxOperatorBlind": both(
        {
            f"pipemax_watch_missed_objects_total{{{OPERATOR}}}": ("0x40 1x20", "0x40 1x20"),
            f'pipemax_watch_last_event_timestamp_seconds{{{OPERATOR}, resource="pods"}}': (
                *("60x60", "0+60x60"),
            ),
        }
    ),
    "PipeMaxJobStuckInDeletion": both(
        {f"pipemax_job_deletion_timestamp_seconds{{{JOB}}}": ("600x60", "3000x60")}
    ),
    "PipeMaxNvmeFoldersLeft": both(
        {
            f"pipemax_nvme_folders_waiting{{{OPERATOR}}}": ("3x60", "3x60"),
            f'pipemax_nvme_sweeps_total{{{OPERATOR}, result="kept"}}': ("0+1x60", "2x60"),
            f"pipemax_nvme_sweeps_held{{{OPERATOR}}}": ("0x60", "0x60"),
        }
    ),
}
