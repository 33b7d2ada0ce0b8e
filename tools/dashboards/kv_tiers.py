"""Where the KV is, what moves, and what that costs."""

from __future__ import annotations

from dashboards.panel import Query
from dashboards.panels import WORKER, Dashboard, panel
from dashboards.queries import rate, share_of

DASHBOARD = Dashboard(
    "kv-tiers",
    "KV tiers",
    (
        panel(
            *("Used share of each tier", "Held by requests."),
            Query(
                f'sum by (tier) (pipemax_kv_blocks{{{WORKER}, state="used"}})'
                f" / (sum by (tier) (pipemax_kv_blocks{{{WORKER}}}) > 0)",
                "{{tier}}",
            ),
            kind="gauge",
            unit="percentunit",
            width=9,
            colour="blue",
        ),
        panel(
            *("Size of each tier", "All stages."),
            Query(f"sum by (tier) (pipemax_kv_tier_capacity_bytes{{{WORKER}}})", "{{tier}}"),
            kind="stat",
            unit="bytes",
            width=9,
            colour="blue",
        ),
        panel(
            *("NVMe written", "Of the endurance given above, by this job's workers."),
            f"sum(pipemax_nvme_written_bytes_total{{{WORKER}}}) / ($endurance * 1e12)",
            kind="stat",
            unit="percentunit",
            width=6,
            thresholds=((0.7, "orange"), (0.9, "red")),
            decimals=2,
        ),
        panel(
            *("Blocks by tier and state", "Used by requests, kept for prefix sharing, free."),
            Query(f"sum by (tier, state) (pipemax_kv_blocks{{{WORKER}}})", "{{tier}} {{state}}"),
        ),
        panel(
            *("Bytes a second between tiers", "All stages."),
            Query(
                rate("pipemax_kv_swap_bytes_total", by="source, target"),
                "{{source}} to {{target}}",
            ),
            unit="Bps",
        ),
        panel(
            *("Measured limit of the links", "What copies got lately, while they ran."),
            Query(
                f"sum by (source, target) (pipemax_kv_link_limit_bytes_per_second{{{WORKER}}})",
                "{{source}} to {{target}}",
            ),
            unit="Bps",
        ),
        panel(
            *("Use of the links", "Bytes a second of the measured limit."),
            Query(
                f"{rate('pipemax_kv_swap_bytes_total', by='source, target')} / sum by "
                f"(source, target) (pipemax_kv_link_limit_bytes_per_second{{{WORKER}}})",
                "{{source}} to {{target}}",
            ),
            unit="percentunit",
        ),
        panel(
            *("Stall share by stage", "Of its time, waiting for KV loads before a forward."),
            Query(
                share_of("pipemax_stage_seconds_total", 'state="stall"', "stage"),
                "stage {{stage}}",
            ),
            unit="percentunit",
        ),
        panel(
            *("Prefetch budget", "What the next micro-batch may load in one step."),
            Query(f"sum by (pod) (pipemax_prefetch_budget_bytes{{{WORKER}}})", "{{pod}}"),
            unit="bytes",
        ),
        panel(
            *("Prompt blocks looked up", "Found in a tier, or missed."),
            Query(rate("pipemax_kv_lookups_total", by="tier, result"), "{{tier}} {{result}}"),
            stacked=True,
        ),
        panel(
            *("NVMe throughput", "Read and written by the workers."),
            Query(rate("pipemax_nvme_read_bytes_total", by="node"), "{{node}} read"),
            Query(rate("pipemax_nvme_written_bytes_total", by="node"), "{{node}} written"),
            unit="Bps",
        ),
        panel(
            *("NVMe bytes written", "Since the workers' start."),
            Query(f"sum by (node) (pipemax_nvme_written_bytes_total{{{WORKER}}})", "{{node}}"),
            unit="bytes",
        ),
        panel(
            *("Blocks lost", "To a bad checksum or a failed read; they are computed again."),
            Query(f"sum by (node) (pipemax_nvme_io_errors_total{{{WORKER}}})", "{{node}}"),
        ),
    ),
    has_endurance=True,
)
