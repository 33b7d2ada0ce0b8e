"""The same job on 1 to 64 nodes: what sharing it costs, and what the store must carry.

Arithmetic: every node runs at the steady rate of its simulated cell, and the job's end costs what
it costs one node, once. Simulation: every node claims ranges by the worker's real code
(``dataset.claims``) over one ledger, on a virtual clock; nodes differ by 10 % either way and begin
within 2 % of the time, and every call to the store takes 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from kit.claim_simulation import Outcome as ClaimOutcome
from kit.claim_simulation import simulate

from planner_study.tables import Results, natural_cell

NUM_REQUESTS = 1_000_000
NUM_NODES = (1, 2, 4, 8, 16, 32, 64)
GROUND = ("8x4090", "Llama-2-70B", "sharegpt")
STORE_CALL_SECONDS = 0.02

_BYTES_PER_TOKEN = 4
_LINE_FRAME_BYTES, _RECORD_FRAME_BYTES = 180, 420
"""Of a line in the batch format and of its record, without prompt and answer."""


class NodeRate(msgspec.Struct, frozen=True):
    """Of one node: requests a second in its steady part, and seconds that a run takes beyond that:
    filling the pipeline, and its end, when too few are left to fill it."""

    requests_per_second: float
    end_seconds: float
    line_bytes: float
    record_bytes: float


class Sharing(msgspec.Struct, frozen=True):
    """``num_nodes`` on the job. Ratios of the job's time."""

    num_nodes: int
    seconds: float
    claims_ratio: float
    spread_ratio: float
    store_calls_per_second: float
    store_bytes_per_second: float
    efficiency: float


def node_rate(results: Results) -> NodeRate | None:
    """None if the cell was not run or was too short to have a steady part."""
    cell = natural_cell(*GROUND, "fused")
    best, num_requests = results.best(cell), results.size(cell)
    if best is None or not best.steady_output_tokens:
        return None
    tokens_each = best.num_output_tokens / num_requests
    rate = best.steady_output_tokens / best.steady_seconds / tokens_each
    prompt_each = best.num_prompt_tokens / num_requests
    return NodeRate(
        requests_per_second=rate,
        end_seconds=max(0.0, best.seconds - num_requests / rate),
        line_bytes=_LINE_FRAME_BYTES + _BYTES_PER_TOKEN * prompt_each,
        record_bytes=_RECORD_FRAME_BYTES + _BYTES_PER_TOKEN * tokens_each,
    )


def share(node: NodeRate, num_nodes: int, num_requests: int = NUM_REQUESTS) -> Sharing:
    """One row. A node alone claims as well, from nobody."""
    seconds = num_requests / node.requests_per_second / num_nodes
    input_bytes = int(num_requests * node.line_bytes)
    outcome = simulate(num_nodes, input_bytes, seconds, STORE_CALL_SECONDS, seed=num_nodes)
    # The nodes as they were drawn may be faster or slower than the mean, all together.
    drawn_seconds = input_bytes / sum(worker.bytes_per_second for worker in outcome.workers)
    shared_seconds = seconds * outcome.seconds / drawn_seconds + node.end_seconds
    moved_bytes = num_requests * (node.line_bytes + node.record_bytes)
    return Sharing(
        num_nodes=num_nodes,
        seconds=shared_seconds,
        claims_ratio=outcome.cost_ratio(),
        spread_ratio=outcome.finish_spread_ratio,
        store_calls_per_second=_num_calls(outcome) / shared_seconds,
        store_bytes_per_second=moved_bytes / shared_seconds,
        efficiency=seconds / shared_seconds,
    )


def _num_calls(outcome: ClaimOutcome) -> int:
    return sum(sum(worker.store.calls.values()) for worker in outcome.workers)


def nodes_table(results: Results) -> Sequence[str]:
    """Markdown; one line of words if the node's cell is not there."""
    node = node_rate(results)
    if node is None:
        return [f"Needs the cell of `fused` on {' '.join(GROUND)}, with a steady part."]
    lines = [
        f"One node: {node.requests_per_second:.2f} requests/s, and {node.end_seconds:.0f} s for "
        f"its beginning and end. The job: {NUM_REQUESTS:,} requests.",
        "",
        "| nodes | time | of ideal | calls to the ledger | first to last node done | calls/s | "
        "store, read and written |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return lines + [_describe(share(node, num_nodes)) for num_nodes in NUM_NODES]


def _describe(row: Sharing) -> str:
    return (
        f"| {row.num_nodes} | {row.seconds / 3600:.2f} h | {row.efficiency:.1%} | "
        f"{row.claims_ratio:.2%} | {row.spread_ratio:.2%} | {row.store_calls_per_second:.1f} | "
        f"{row.store_bytes_per_second / 1e6:.2f} MB/s |"
    )
