"""What the workers compute, and where time goes."""

from __future__ import annotations

from dashboards.panel import Query
from dashboards.panels import WORKER, Dashboard, panel
from dashboards.queries import GENERATED, TOKENS_PER_JOULE, WINDOW, quantile, rate, share_of

DASHBOARD = Dashboard(
    "engine",
    "Engine",
    (
        panel(
            *("Tokens a second", "Prefill computes prompts, once or again; decode generates."),
            Query(rate("pipemax_tokens_total", f'{WORKER}, kind=~"prompt|recomputed"'), "prefill"),
            Query(f"sum(rate({GENERATED}{WINDOW}))", "decode"),
        ),
        panel(
            *("Batch tokens", "Tokens in a micro-batch."),
            Query(
                f"{rate('pipemax_batch_tokens_sum')} / ({rate('pipemax_batch_tokens_count')} > 0)",
                "mean",
            ),
            Query(quantile(0.95, "pipemax_batch_tokens"), "95th percentile"),
        ),
        panel(
            *("Bubble ratio by stage", "Share of a stage's time spent waiting for work."),
            Query(
                share_of("pipemax_stage_seconds_total", 'state="wait"', "stage"), "stage {{stage}}"
            ),
            unit="percentunit",
        ),
        panel(
            *("Time by state", "Of all stages: seconds a second."),
            Query(rate("pipemax_stage_seconds_total", by="state"), "{{state}}"),
            unit="s",
            stacked=True,
        ),
        panel(
            *("Step time", "Micro-batches by the forward time of their slowest stage."),
            Query(
                f"sum by (le) (increase(pipemax_step_duration_seconds_bucket{{{WORKER}}}{WINDOW}))",
                "{{le}}",
            ),
            kind="heatmap",
            unit="s",
        ),
        panel(
            *("Step time by phase", "Median and 95th percentile."),
            Query(quantile(0.5, "pipemax_step_duration_seconds", "phase"), "{{phase}}, median"),
            Query(quantile(0.95, "pipemax_step_duration_seconds", "phase"), "{{phase}}, 95th"),
            unit="s",
        ),
        panel(
            *("Estimator error", "Mean relative error of the predicted step time."),
            Query(f"max by (pod) (pipemax_estimator_error_ratio{{{WORKER}}})", "{{pod}}"),
            unit="percentunit",
        ),
        panel(
            *("Requests in the engine", "By state; those in flight are read and not finished."),
            Query(f"sum by (state) (pipemax_engine_requests{{{WORKER}}})", "{{state}}"),
            Query(f"sum(pipemax_requests_in_flight{{{WORKER}}})", "in flight"),
        ),
        panel(
            *("Preemptions a second", "By what became of the KV."),
            Query(rate("pipemax_preemptions_total", by="kind"), "{{kind}}"),
        ),
        panel(
            *("Waiting for grammar masks", "Of the last stage, for schemas: seconds a second."),
            Query(rate("pipemax_grammar_wait_seconds_total"), "masks"),
            unit="s",
            width=6,
        ),
        panel(
            *("Model load", "Of each stage, at its start."),
            Query(f"max by (stage) (pipemax_model_load_seconds{{{WORKER}}})", "stage {{stage}}"),
            unit="s",
            width=6,
        ),
        panel(
            *("Power by GPU", "By NVML; an average over a second on most GPUs."),
            Query(
                f"sum by (pod, gpu) (pipemax_gpu_power_watts{{{WORKER}}})", "{{pod}} GPU {{gpu}}"
            ),
            unit="watt",
        ),
        panel(
            *("Joules per generated token", "Of all workers; prefill and idle time included."),
            f"1 / ({TOKENS_PER_JOULE} > 0)",
            unit="joule",
        ),
    ),
)
