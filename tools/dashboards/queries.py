"""PromQL that several panels share."""

from __future__ import annotations

from dashboards.panels import JOB, WORKER

NAMESPACE = 'namespace=~"$namespace"'
WINDOW = "[$__rate_interval]"


def rate(metric: str, selector: str = WORKER, by: str = "") -> str:
    """A second, summed over all series of ``selector``, or for each value of ``by``."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{selector}}}{WINDOW}))"


def share_of(metric: str, selector: str, by: str) -> str:
    """Of the label's values in ``selector`` in all of them."""
    part, whole = (f"{WORKER}, {selector}", WORKER)
    return f"{rate(metric, part, by)} / ({rate(metric, whole, by)} > 0)"


def quantile(share: float, metric: str, by: str = "") -> str:
    """Of a histogram of the workers."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', WORKER, labels)})"


GENERATED = f'pipemax_tokens_total{{{WORKER}, kind="generated"}}'
TOKENS_PER_JOULE = (
    f"sum(rate({GENERATED}{WINDOW})) / (sum(rate(pipemax_gpu_energy_joules_total{{{WORKER}}}"
    f"{WINDOW})) > 0)"
)
ETA = (
    f"(max by (namespace, job) (pipemax_job_eta_timestamp_seconds{{{JOB}}})"
    f" or max by (namespace, job) (time() + pipemax_run_remaining_seconds{{{WORKER}}}))"
)
DEADLINE = f"max by (namespace, job) (pipemax_job_deadline_timestamp_seconds{{{JOB}}})"
