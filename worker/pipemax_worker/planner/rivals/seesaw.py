"""``seesaw``: prefill in a pipeline, decode in tensor parallelism (Seesaw, arXiv 2503.06433).

Prompts go down the pipeline and their KV into a buffer in the host's memory until it is full; then
the cards are sharded anew and decode what fits them, refilled from the buffer as sequences end;
once it is empty they are sharded back for the next prompts. A switch reads each card's part of the
weights from the host again, but for what it has of them in either cut, and stores what still runs.
As the paper has it, nothing is admitted by predicted lengths and who has no room is swapped out.

Idealised in its favour: loads hide behind steps without slowing them, and host memory for a second
copy of the weights is there.
"""

from __future__ import annotations

from collections import deque

import msgspec

from pipemax_worker.contract.geometry import Tier, num_blocks_for
from pipemax_worker.contract.statistics import CopyTotals, EngineStatistics, StageTotals
from pipemax_worker.errors import RequestError
from pipemax_worker.performance.correction import EstimatorAccuracy
from pipemax_worker.performance.stage_costs import derive_stage_costs
from pipemax_worker.planner.rivals import tensor_parallel
from pipemax_worker.planner.rivals.buffered_decode import BufferedDecode, DecodeRates
from pipemax_worker.planner.rivals.pipeline_prefill import (
    PipelinePrefill,
    PrefillPhase,
    PrefillRates,
)
from pipemax_worker.planner.rivals.sequences import HostBuffer
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings, hop_speed
from pipemax_worker.planner.workload import Workload

_ALIVE_SHARE = 0.5
"""Of the buffer: with more alive than this a switch back would fill too little to be worth it."""


def simulate_seesaw(settings: SimulationSettings, workload: Workload) -> SimulationResult:
    """``settings`` are the pipeline's; its host tier is the buffer, or the cards' own room if there
    is none.

    Raises RequestError if a request can never run.
    """
    return _Seesaw(settings, workload).run()


class _CycleEnd(msgspec.Struct, frozen=True):
    """Prompt and output tokens by the end of a prefill and the decoding after it."""

    seconds: float
    num_prompt_tokens: int
    num_output_tokens: int


_NOTHING = _CycleEnd(0.0, 0, 0)


class _Seesaw:
    """One run."""

    def __init__(self, settings: SimulationSettings, workload: Workload) -> None:
        self._settings = settings
        self._workload = workload
        node, geometry = settings.node, settings.geometry
        links, card = node.stage_profile(), tensor_parallel.card_cost(settings)
        costs = derive_stage_costs(settings.model, geometry, settings.dtype)
        num_slots = tensor_parallel.num_slots(settings)
        self._prefill = PipelinePrefill(
            node.step_cost(costs),
            PrefillRates(
                max_batched_tokens=settings.scheduler.max_batched_tokens,
                hop=hop_speed(settings),
                kv_bytes_per_token=tuple(cost.kv_bytes_per_token for cost in costs),
                store_bytes_per_second=links.device_to_host_bytes_per_second,
            ),
        )
        self._decode = BufferedDecode(
            tensor_parallel.derive_cost(settings),
            DecodeRates(
                capacity_tokens=num_slots * geometry.block_tokens,
                max_num_requests=tensor_parallel.max_num_requests(settings.scheduler),
                kv_bytes_per_token=card.kv_bytes_per_token,
                load_bytes_per_second=links.host_to_device_bytes_per_second,
                store_bytes_per_second=links.device_to_host_bytes_per_second,
                slack_tokens=geometry.block_tokens // 2,
            ),
        )
        self._num_slots = min(num_slots, geometry.num_device_slots)
        num_host_slots = geometry.num_host_slots or num_slots
        self._buffer = HostBuffer(num_host_slots * geometry.block_tokens)
        share_elsewhere = 1 - 1 / node.num_gpus
        self._reshard_seconds = (
            card.weight_bytes * share_elsewhere / links.host_to_device_bytes_per_second
        )
        self._token_bytes = node.num_gpus * card.kv_bytes_per_token
        self._phases: list[PrefillPhase] = []
        self._cycles: list[_CycleEnd] = []
        self._num_switches = 0

    def run(self) -> SimulationResult:
        self._check()
        now = 0.0
        waiting = deque(self._workload.lengths)
        while waiting:
            now = self._switch(now) if self._phases else now
            phase = self._prefill.run(now, waiting, self._buffer)
            self._phases.append(phase)
            until = self._most_alive(waiting[0][0]) if waiting else None
            now = self._switch(phase.end) if self._buffer else phase.end
            now = self._decode.run(now, self._buffer, until)
            if waiting:
                self._cycles.append(self._cycle_end(now, len(waiting)))
        return self._result(now)

    def _most_alive(self, next_prompt: int) -> int:
        """Tokens that may be left when prompts come again, of which the next one must find room."""
        capacity = self._buffer.capacity
        return max(0, min(int(_ALIVE_SHARE * capacity), capacity - next_prompt))

    def _cycle_end(self, now: float, num_waiting: int) -> _CycleEnd:
        num_begun = len(self._workload.lengths) - num_waiting
        num_prompts = sum(phase.num_tokens for phase in self._phases)
        return _CycleEnd(now, num_prompts, num_begun + self._decode.totals.num_tokens)

    def _switch(self, now: float) -> float:
        self._num_switches += 1
        return now + self._reshard_seconds

    def _check(self) -> None:
        block_tokens = self._settings.geometry.block_tokens
        for prompt, output in self._workload.lengths:
            num_blocks = num_blocks_for(prompt + output - 1, block_tokens)
            if num_blocks > self._num_slots:
                raise RequestError(
                    "kv_cache_exceeded",
                    f"{prompt} prompt tokens and {output} of output need {num_blocks} blocks; the "
                    f"cards have room for {self._num_slots}",
                    "body.max_tokens",
                )

    # --- what came of it

    def _result(self, seconds: float) -> SimulationResult:
        workload, decode = self._workload, self._decode.totals
        num_steps = decode.num_steps + sum(phase.num_chunks for phase in self._phases)
        num_batched = decode.num_tokens + workload.num_prompt_tokens
        # Whole cycles, of prompts and outputs both; the first one began with nothing to decode.
        begin, end = (self._cycles[0], self._cycles[-1]) if self._cycles else (_NOTHING, _NOTHING)
        return SimulationResult(
            seconds=seconds,
            num_requests=len(workload.lengths),
            num_prompt_tokens=workload.num_prompt_tokens,
            num_output_tokens=workload.num_output_tokens,
            steady_seconds=end.seconds - begin.seconds,
            steady_prompt_tokens=end.num_prompt_tokens - begin.num_prompt_tokens,
            steady_output_tokens=end.num_output_tokens - begin.num_output_tokens,
            num_steps=num_steps,
            mean_batch_tokens=num_batched / max(1, num_steps),
            statistics=self._statistics(num_steps, num_batched),
            accuracy=EstimatorAccuracy(1.0, 0.0),
        )

    def _statistics(self, num_steps: int, num_batched: int) -> EngineStatistics:
        workload, decode = self._workload, self._decode.totals
        num_stored = workload.num_prompt_tokens + decode.num_stored_tokens
        stages = tuple(
            StageTotals(
                stage=card,
                compute_seconds=decode.compute_seconds
                + sum(phase.compute_seconds[card] for phase in self._phases),
                stall_seconds=decode.stall_seconds + self._num_switches * self._reshard_seconds,
                wait_seconds=0.0,
            )
            for card in range(self._settings.node.num_gpus)
        )
        return EngineStatistics(
            num_steps=num_steps,
            num_prompt_tokens=workload.num_prompt_tokens,
            num_generated_tokens=workload.num_output_tokens,
            num_batched_tokens=num_batched,
            num_preemptions_by_move=decode.num_swapped_out,
            copies=(
                self._copies(Tier.DEVICE, Tier.HOST, num_stored),
                self._copies(Tier.HOST, Tier.DEVICE, decode.num_loaded_tokens),
            ),
            stages=stages,
        )

    def _copies(self, source: Tier, target: Tier, num_tokens: int) -> CopyTotals:
        num_bytes = num_tokens * self._token_bytes
        bandwidth = self._settings.node.stage_profile().link_bandwidth(source, target)
        seconds = num_bytes / self._settings.node.num_gpus / bandwidth
        return CopyTotals(source, target, num_bytes, seconds)
