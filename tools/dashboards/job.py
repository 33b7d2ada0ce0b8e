"""One job: how far, until when, what fails."""

from __future__ import annotations

from dashboards.panel import Query
from dashboards.panels import JOB, WORKER, Dashboard, panel
from dashboards.queries import DEADLINE, ETA, GENERATED, TOKENS_PER_JOULE, WINDOW, rate, share_of

DASHBOARD = Dashboard(
    "job",
    "Job",
    (
        panel(
            *("Progress", "Share of the input that has a record."),
            Query(
                f"max by (namespace, job) (pipemax_job_progress_ratio{{{JOB}}})",
                "{{namespace}}/{{job}}",
            ),
            kind="gauge",
            unit="percentunit",
            width=6,
        ),
        panel(
            *("Done at", "At the present rate."),
            Query(f"1000 * {ETA}", "{{namespace}}/{{job}}"),
            kind="stat",
            unit="dateTimeAsIso",
            width=5,
        ),
        panel(
            *("Room before the deadline", "Negative: it will not be met."),
            Query(
                f"{DEADLINE} - {ETA}",
                "{{namespace}}/{{job}}",
            ),
            kind="stat",
            unit="s",
            width=5,
            colour="red",
            thresholds=((0, "green"),),
        ),
        panel(
            *("Workers", "Pods that serve metrics."),
            Query(f"count by (namespace, job) (pipemax_build_info{{{WORKER}}})", "{{job}}"),
            kind="stat",
            width=4,
        ),
        panel(
            *("Attempts", "How many times pods were started."),
            Query(f"max by (namespace, job) (pipemax_job_attempts{{{JOB}}})", "{{job}}"),
            kind="stat",
            width=4,
        ),
        panel(
            *("Energy", "That all runs of the job have taken of GPUs."),
            Query(
                f"max by (namespace, job) (pipemax_job_energy_joules{{{JOB}}}) / 3.6e6", "{{job}}"
            ),
            kind="stat",
            unit="kwatth",
            width=8,
        ),
        panel(
            *("GPU-hours", "For which all runs of the job have held GPUs, busy or not."),
            Query(f"max by (namespace, job) (pipemax_job_gpu_seconds{{{JOB}}}) / 3600", "{{job}}"),
            kind="stat",
            unit="h",
            width=8,
        ),
        panel(
            *("Generated tokens per joule", "Lately, by all workers of the job."),
            TOKENS_PER_JOULE,
            kind="stat",
            width=8,
        ),
        panel(
            *("Time left", "At the present rate, and until the deadline."),
            Query(f"{ETA} - time()", "{{job}} at this rate"),
            Query(
                f"{DEADLINE} - time()",
                "{{job}} until its deadline",
            ),
            unit="s",
        ),
        panel(
            *("Requests", "With a record, and all; estimated until the job is complete."),
            Query(
                f"max by (namespace, job, state) (pipemax_job_requests{{{JOB}}})",
                "{{job}} {{state}}",
            ),
        ),
        panel(
            *("Requests a second", "Records written by the workers, by their result."),
            Query(rate("pipemax_requests_total", by="result"), "{{result}}"),
            stacked=True,
        ),
        panel(
            *("Failed share", "Of the records written lately."),
            Query(
                share_of("pipemax_requests_total", 'result="failed"', "namespace, job"), "{{job}}"
            ),
            unit="percentunit",
        ),
        panel(
            *("Generated tokens a second", "By each worker."),
            Query(f"sum by (pod, node) (rate({GENERATED}{WINDOW}))", "{{pod}} on {{node}}"),
            stacked=True,
        ),
        panel(
            *("Pipeline restarts", "After a stage had died; since the worker's start."),
            Query(
                f"sum by (pod, node) (pipemax_pipeline_restarts_total{{{WORKER}}})",
                "{{pod}} on {{node}}",
            ),
        ),
    ),
)
