"""A stage process: from its configuration to its last words. Started by import string from the fork
server of ``pipeline.launch``; nothing imports this module."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
import zmq

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.messages import (
    ENCODER,
    StageConfig,
    StageEvent,
    StageFailed,
    StageReady,
)
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.errors import GpuLostError, PipemaxError, StageDiedError
from pipemax_worker.stage.channel import ActivationChannel, ZmqChannel
from pipemax_worker.stage.device_tokens import DeviceTokens
from pipemax_worker.stage.feedback import FeedbackReceiver, FeedbackSender
from pipemax_worker.stage.gpu_loss import is_gpu_loss
from pipemax_worker.stage.host_channel import HostChannel, cuda_copies
from pipemax_worker.stage.inbox import ZmqContext, ZmqInbox
from pipemax_worker.stage.kv.device import KV_DTYPES, DeviceKVCache
from pipemax_worker.stage.kv.host import HostKVCache
from pipemax_worker.stage.kv.mover import KVMover
from pipemax_worker.stage.kv.nvme import NVMeKVFile
from pipemax_worker.stage.lifeline import die_with_driver, ignore_stop_signals
from pipemax_worker.stage.model.checkpoint import Checkpoint, WeightSource
from pipemax_worker.stage.model.model import StageModel
from pipemax_worker.stage.model.random_weights import RandomWeights
from pipemax_worker.stage.nccl import NcclChannel
from pipemax_worker.stage.numa import stay_beside
from pipemax_worker.stage.parts import Model
from pipemax_worker.stage.runner import StageRunner
from pipemax_worker.stage.sampler import Sampler

LAST_WORDS_MILLISECONDS = 2000
CUDA_CONTEXT_BYTES = 640 << 20
"""Of a GPU's memory for what is not PyTorch's: the context, loaded kernels, captured graphs."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""Copy threads need the GIL between two runs; Python's default lets them wait 5 ms for it."""


class LoadedModel(Model, Protocol):
    @property
    def weight_bytes(self) -> int: ...


ModelLoader = Callable[[StageConfig, ModelConfig, KVGeometry, torch.device], LoadedModel]


def load_model(
    config: StageConfig, model_config: ModelConfig, geometry: KVGeometry, device: torch.device
) -> LoadedModel:
    """This stage's layers of ``config.model_folder``, or random ones of that shape."""
    layers = geometry.cut.layers(config.stage)
    return StageModel(
        model_config,
        open_weights(config, device),
        first_layer=config.first_layer,
        num_layers=len(layers.attention),
        is_first=config.stage == 0,
        is_last=config.stage == config.num_stages - 1,
        device=device,
        dtype=getattr(torch, config.dtype),
        kv_dtype=KV_DTYPES[geometry.kv_dtype],
        max_num_requests=config.max_num_requests,
        mlp_layers=layers.mlp,
    )


def open_weights(config: StageConfig, device: torch.device) -> WeightSource:
    dtype = getattr(torch, config.dtype)
    if config.dummy_weights_seed is not None:
        return RandomWeights(config.dummy_weights_seed, device, dtype)
    return Checkpoint(Path(config.model_folder), device, dtype)


def main(config_bytes: bytes, model_loader: ModelLoader = load_model) -> None:
    """Run the stage that ``config_bytes``, a msgpack :class:`StageConfig`, describes, to its end.

    Never raises: an error becomes :class:`StageFailed`, a traceback on stderr and an exit code.
    """
    ignore_stop_signals()
    config = msgspec.msgpack.decode(config_bytes, type=StageConfig)
    die_with_driver(config.nvme_path)
    context: ZmqContext = zmq.Context()
    events = context.socket(zmq.PUSH)
    events.sndhwm = 0
    events.linger = LAST_WORDS_MILLISECONDS
    events.connect(config.event_address)

    def send_event(event: StageEvent) -> None:
        events.send(ENCODER.encode(event))

    try:
        run_stage(config, context, send_event, model_loader)
    except Exception as error:
        traceback.print_exc()
        failure = describe_failure(config.stage, error)
        send_event(failure)
        context.destroy()  # waits until the event is handed over
        sys.stderr.flush()
        # No tidy end: a stage whose neighbours are gone could wait for them in its destructors.
        os._exit(error.exit_code if isinstance(error, PipemaxError) else StageDiedError.exit_code)
    context.destroy()


def describe_failure(stage: int, error: Exception) -> StageFailed:
    """A stage's last words for ``error``: a ``PipemaxError`` as it is, anything else by name."""
    if isinstance(error, PipemaxError):
        return StageFailed(stage, error.reason, str(error))
    message = f"stage {stage}: {type(error).__name__}: {error}"
    if is_gpu_loss(error):
        return StageFailed(stage, GpuLostError.reason, message)
    if isinstance(error, torch.OutOfMemoryError):
        message += "; lower engine.memoryFraction or engine.maxBatchedTokens"
    return StageFailed(stage, StageDiedError.reason, message)


def run_stage(
    config: StageConfig,
    context: ZmqContext,
    send_event: Callable[[StageEvent], None],
    model_loader: ModelLoader,
) -> None:
    """Load, allocate, connect, say that the stage is ready, and run until ``Shutdown``."""
    start = time.perf_counter()
    geometry = msgspec.msgpack.decode(config.geometry, type=KVGeometry)
    model_config = msgspec.msgpack.decode(config.model_config, type=ModelConfig)
    device = set_up_device(config)
    inbox = ZmqInbox(context, config.input_address)
    model = model_loader(config, model_config, geometry, device)
    with _open_tiers(config, geometry, device) as tiers:
        channel = _connect_channel(config, context, model_config)
        tokens, feedback = _connect_feedback(config, context)
        is_last = config.stage == config.num_stages - 1
        runner = StageRunner(
            stage=config.stage,
            device=device,
            block_tokens=geometry.block_tokens,
            model=model,
            kv=tiers.device.blocks,
            mover=tiers.mover,
            channel=channel,
            tokens=tokens,
            sampler=_build_sampler(config, model_config, device) if is_last else None,
            feedback=feedback,
            send_event=send_event,
            **_overlap_of(model),
        )
        gc.freeze()  # what is loaded stays: no collection need look at it (or unshare its pages)
        send_event(
            StageReady(
                stage=config.stage,
                load_seconds=time.perf_counter() - start,
                weight_bytes=model.weight_bytes,
                nvme_direct_io=tiers.nvme is not None and tiers.nvme.is_direct,
                adoption_fault=None if tiers.nvme is None else tiers.nvme.adoption_fault,
            )
        )
        is_parked = not runner.run_forever(inbox).remove_nvme_files
        tiers.mover.close()
        if is_parked and tiers.nvme is not None:
            tiers.nvme.park()
        tiers.remove_nvme_file = not is_parked
        channel.close()


def _overlap_of(model: LoadedModel) -> dict[str, Any]:
    """What lets the runner launch ahead, for a model that computes while the host goes on."""
    if not (isinstance(model, StageModel) and model.overlaps):
        return {}
    ring = model.token_ring
    return {"overlaps": True, "device_tokens": None if ring is None else DeviceTokens(ring)}


def _build_sampler(config: StageConfig, model_config: ModelConfig, device: torch.device) -> Sampler:
    tokenizer_file = Path(config.model_folder) / "tokenizer.json"
    return Sampler(model_config.vocab_size, device, tokenizer_file)


def set_up_device(config: StageConfig) -> torch.device:
    """Threads, current device and memory limit of this process."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    torch.set_num_threads(config.num_threads)
    device = torch.device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        stay_beside(device)
        if config.memory_limit_bytes is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            fraction = min(1.0, (config.memory_limit_bytes - CUDA_CONTEXT_BYTES) / total)
            torch.cuda.set_per_process_memory_fraction(fraction, device)
    return device


@dataclass
class _Tiers:
    device: DeviceKVCache
    host: HostKVCache
    nvme: NVMeKVFile | None
    mover: KVMover
    remove_nvme_file: bool = True


@contextlib.contextmanager
def _open_tiers(
    config: StageConfig, geometry: KVGeometry, device: torch.device
) -> Iterator[_Tiers]:
    """All memory and disk of the KV cache, allocated now. The file goes, unless a clean end says
    that it is to stay."""
    device_kv = DeviceKVCache(geometry, config.stage, device)
    host_kv = HostKVCache(geometry, config.stage, pinned=device.type == "cuda")
    nvme = None
    if config.nvme_path is not None and geometry.num_nvme_slots > 0:
        slot_bytes = geometry.slot_bytes(config.stage)
        nvme = NVMeKVFile(
            Path(config.nvme_path),
            geometry.num_nvme_slots,
            slot_bytes,
            adopt=config.adopt_nvme_file,
        )
    mover = KVMover(device_kv, host_kv, nvme)
    # What is adopted and not used stays for the next run, and what is used the driver removes.
    tiers = _Tiers(device_kv, host_kv, nvme, mover, remove_nvme_file=not config.adopt_nvme_file)
    try:
        yield tiers
        host_kv.close()
    finally:
        if nvme is not None:
            nvme.close(remove=tiers.remove_nvme_file)


def _connect_channel(
    config: StageConfig, context: ZmqContext, model_config: ModelConfig
) -> ActivationChannel:
    if config.rendezvous is not None and config.num_stages > 1:
        return NcclChannel(config, model_config.hidden_size)
    device = torch.device(config.device)
    if device.type == "cuda":
        return HostChannel(context, config, model_config.hidden_size, cuda_copies(device))
    return ZmqChannel(context, config, model_config.hidden_size)


def _connect_feedback(
    config: StageConfig, context: ZmqContext
) -> tuple[FeedbackReceiver | None, FeedbackReceiver | FeedbackSender | None]:
    """Stage 0's end and the last stage's end of the ring: one object if they are one stage."""
    is_first, is_last = config.stage == 0, config.stage == config.num_stages - 1
    if is_first and is_last:
        receiver = FeedbackReceiver(None)
        return receiver, receiver
    if not (is_first or is_last) or config.feedback_address is None:
        return None, None
    socket = context.socket(zmq.PULL if is_first else zmq.PUSH)
    socket.set_hwm(0)  # without limit: see ``feedback``
    socket.linger = 0
    if is_first:
        socket.bind(config.feedback_address)
        return FeedbackReceiver(socket), None
    socket.connect(config.feedback_address)
    return None, FeedbackSender(socket)
