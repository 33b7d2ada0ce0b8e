"""All jobs at a glance, and the operator."""

from __future__ import annotations

from dashboards.panel import Query
from dashboards.panels import JOB, WORKER, Dashboard, panel
from dashboards.queries import GENERATED, NAMESPACE, TOKENS_PER_JOULE, WINDOW, rate

DASHBOARD = Dashboard(
    "fleet",
    "Fleet",
    (
        panel(
            *("Jobs running", "InferenceJobs whose pods compute."),
            f'sum(pipemax_jobs{{{NAMESPACE}, phase="Running"}}) or vector(0)',
            kind="stat",
            has_course=True,
            width=4,
        ),
        panel(
            *("Stages held", "GPUs, one for each stage, that jobs hold."),
            f"count(pipemax_model_load_seconds{{{WORKER}}}) or vector(0)",
            kind="stat",
            has_course=True,
            width=4,
        ),
        panel(
            *("Stages busy", "GPUs that compute, on average: seconds of work a second."),
            rate("pipemax_stage_seconds_total", f'{WORKER}, state="compute"') + " or vector(0)",
            kind="stat",
            has_course=True,
            width=4,
        ),
        panel(
            *("Generated tokens a second", "By all jobs."),
            f"sum(rate({GENERATED}{WINDOW})) or vector(0)",
            kind="stat",
            has_course=True,
            width=4,
        ),
        panel(
            *("Longest queue wait", "Of the jobs that are there, until their first pod ran."),
            f"max(pipemax_job_queue_wait_seconds{{{JOB}}}) or vector(0)",
            kind="stat",
            has_course=True,
            unit="s",
            width=4,
        ),
        panel(
            *("Alerts firing", "See docs/operations.md."),
            'count(ALERTS{alertname=~"PipeMax.*", alertstate="firing"}) or vector(0)',
            kind="stat",
            has_course=True,
            width=4,
            thresholds=((1, "red"),),
        ),
        panel(
            *("Jobs by phase", "As the operator's status has them."),
            Query(f"sum by (phase) (pipemax_jobs{{{NAMESPACE}}})", "{{phase}}"),
            stacked=True,
        ),
        panel(
            *("Queue wait", "From the job's creation to its first pod, or to now."),
            Query(f"pipemax_job_queue_wait_seconds{{{JOB}}}", "{{namespace}}/{{job}}"),
            unit="s",
        ),
        panel(
            *("Tokens a second by job", "Generated."),
            Query(f"sum by (namespace, job) (rate({GENERATED}{WINDOW}))", "{{namespace}}/{{job}}"),
            stacked=True,
        ),
        panel(
            *("Tokens a second by kind", "How the KV of each token came to be."),
            Query(rate("pipemax_tokens_total", by="kind"), "{{kind}}"),
        ),
        panel(
            *("Stages busy by node", "Seconds of work a second; the node's GPUs at most."),
            Query(
                rate("pipemax_stage_seconds_total", f'{WORKER}, state="compute"', "node"),
                "{{node}}",
            ),
            stacked=True,
        ),
        panel(
            *("Generated tokens per joule", "By the workers' own measurement of their GPUs."),
            TOKENS_PER_JOULE,
        ),
        panel(
            *("Power by node", "Of the GPUs that jobs hold."),
            Query(f"sum by (node) (pipemax_gpu_power_watts{{{WORKER}}})", "{{node}}"),
            unit="watt",
            stacked=True,
        ),
        panel(
            *("GPU-hours by job", "Held, busy or not, by all runs of the jobs that are there."),
            Query(f"pipemax_job_gpu_seconds{{{JOB}}} / 3600", "{{namespace}}/{{job}}"),
            unit="h",
        ),
        panel(
            *("Operator: reconciliations a second", "And those that failed."),
            Query(f"sum(rate(pipemax_reconcile_total{WINDOW}))", "all"),
            Query(f"sum(rate(pipemax_reconcile_errors_total{WINDOW}))", "failed"),
            width=8,
        ),
        panel(
            *("Operator: reconciliation time", "95th percentile."),
            Query(
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(pipemax_reconcile_duration_seconds_bucket{WINDOW})))",
                "95th percentile",
            ),
            unit="s",
            width=8,
        ),
        panel(
            *("Operator: queue", "Jobs that wait for their reconciliation."),
            Query("sum(pipemax_reconcile_queue_length)", "jobs"),
            width=8,
        ),
    ),
)
