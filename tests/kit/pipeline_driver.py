"""The least of an engine: static slots, one row a request, nothing waits for reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from kit.fake_model import fake_model_config
from pipemax_worker.contract.geometry import KVGeometry, num_blocks_for
from pipemax_worker.contract.messages import (
    Executor,
    ExecutorEvent,
    NewRequest,
    ScheduledRequest,
    StageConfig,
    StageDied,
    StageInput,
    StepOutput,
)
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.contract.model_cut import ModelCut
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.pipeline.gpus import gpu_memory_bytes
from pipemax_worker.pipeline.settings import (
    PipelineSettings,
    build_geometry,
    build_stage_configs,
)

BLOCK_TOKENS = 4
GREEDY = SamplingParams(max_tokens=1000, temperature=0.0)


def make_settings(
    num_stages: int,
    *,
    folder: Path | None = None,
    model_folder: Path = Path("nowhere"),
    model_config: ModelConfig | None = None,
    device_kv_bytes: int = 1 << 19,
    device: str = "cpu",
    cut: ModelCut | None = None,
) -> PipelineSettings:
    return PipelineSettings(
        model_folder=model_folder,
        model_config=model_config or fake_model_config(),
        num_stages=num_stages,
        dtype="float32",
        kv_dtype="float32",
        block_tokens=BLOCK_TOKENS,
        max_batched_tokens=512,
        max_num_requests=64,
        device=device,
        device_kv_bytes=device_kv_bytes,
        host_kv_bytes=num_stages << 19,
        nvme_kv_bytes=num_stages << 19,
        nvme_folder=folder,
        layers_of_stage=None if cut is None else cut.layers_of_stage,
        mlp_left_by_stage=() if cut is None else cut.mlp_left_by_stage,
    )


def make_configs(settings: PipelineSettings) -> tuple[StageConfig, ...]:
    return build_stage_configs(settings, build_geometry(settings, gpu_memory_bytes()), num_cores=1)


def geometry_of(configs: Sequence[StageConfig]) -> KVGeometry:
    return msgspec.msgpack.decode(configs[0].geometry, type=KVGeometry)


def new_request(request_id: int, prompt: Sequence[int]) -> NewRequest:
    return NewRequest(request_id, pack_int32(prompt), b"", GREEDY, seed=0)


def schedule(
    request_id: int,
    num_computed: int,
    tokens: Sequence[int] | None,
    slots: Sequence[int],
    needs_sample: bool = True,
) -> ScheduledRequest:
    """``tokens`` None: one token, fed back. ``slots`` may be longer than what is computed."""
    num_new = 1 if tokens is None else len(tokens)
    num_blocks = num_blocks_for(num_computed + num_new, BLOCK_TOKENS)
    return ScheduledRequest(
        request_id,
        num_computed,
        num_new,
        None if tokens is None else pack_int32(tokens),
        pack_int32(slots[:num_blocks]),
        needs_sample,
    )


def static_slots(request_id: int, max_tokens: int) -> list[int]:
    num_blocks = num_blocks_for(max_tokens, BLOCK_TOKENS)
    return list(range(request_id * num_blocks, (request_id + 1) * num_blocks))


def static_messages(
    prompts: Sequence[Sequence[int]], num_tokens: int, num_micro_batches: int
) -> list[StageInput]:
    """Prefill, then decode on fed-back tokens; the micro-batches take turns."""
    max_tokens = max(map(len, prompts)) + num_tokens
    messages: list[StageInput] = []
    for turn in range(num_tokens):
        for micro_batch in range(num_micro_batches):
            ids = range(micro_batch, len(prompts), num_micro_batches)
            rows = [
                schedule(i, 0, prompts[i], static_slots(i, max_tokens))
                if turn == 0
                else schedule(i, len(prompts[i]) + turn - 1, None, static_slots(i, max_tokens))
                for i in ids
            ]
            messages.append(
                StageInput(
                    sequence=len(messages),
                    micro_batch_id=micro_batch,
                    scheduled=tuple(rows),
                    new_requests=tuple(new_request(i, prompts[i]) for i in ids)
                    if turn == 0
                    else (),
                    finished_ids=tuple(ids) if turn == num_tokens else (),
                )
            )
    return messages


def run_messages(executor: Executor, messages: Sequence[StageInput]) -> list[ExecutorEvent]:
    """Submit all at once and collect until the last message is reported by all stages."""
    for message in messages:
        executor.submit(message)
    return collect_until_reported(executor, messages[-1].sequence)


def collect_until_reported(executor: Executor, sequence: int) -> list[ExecutorEvent]:
    events: list[ExecutorEvent] = []
    missing = set(range(num_stages_of(executor)))
    while missing:
        for event in executor.collect(10.0):
            assert not isinstance(event, StageDied), event
            if not isinstance(event, StepOutput) and event.sequence == sequence:
                missing.discard(event.stage)
            events.append(event)
    return events


def num_stages_of(executor: Executor) -> int:
    return len(executor.process_ids)  # type: ignore[attr-defined]


def sampled_tokens(events: Sequence[ExecutorEvent]) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, StepOutput):
            for token in event.sampled:
                texts.setdefault(token.request_id, []).append(token.token_id)
    return texts
