"""Simulates cells, each once: its figures lie in one JSON file, and a second run goes on there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import msgspec
from pipemax_worker.cli.plan_settings import derive_simulation
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.errors import PipemaxError
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.performance.node_profile import load_node_profile
from pipemax_worker.planner.limits import TimeShares, derive_time_shares
from pipemax_worker.planner.plan import simulate_system
from pipemax_worker.planner.plan_search import EngineChoice, step_sizes
from pipemax_worker.planner.simulation import SimulationResult, SimulationSettings
from pipemax_worker.planner.workload import Workload, draw_workload

from planner_study.ablations import ablate, ablate_workload, simulate_without_write_through
from planner_study.cells import KV_DTYPES, Cell

SHAPES = Path(__file__).parents[1] / "shapes"
HOST_KV_SHARE = 0.75
"""Of a node's memory, as KV."""

_USUAL_STEP_TOKENS = (512, 2048)


class Trial(msgspec.Struct, frozen=True):
    """One simulation of a cell, with at most so many tokens a step."""

    max_batched_tokens: int
    seconds: float
    num_prompt_tokens: int
    num_output_tokens: int
    steady_seconds: float
    steady_prompt_tokens: int
    steady_output_tokens: int
    mean_batch_tokens: float
    busy: float
    device_kv_tokens: int
    host_kv_tokens: int
    num_recomputed_tokens: int
    loaded_bytes: int
    shares: TimeShares | None
    cpu_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """In and out, with the tail: the paper's measure."""
        return (self.num_prompt_tokens + self.num_output_tokens) / self.seconds

    @property
    def output_tokens_per_second(self) -> float:
        return self.num_output_tokens / self.seconds


class Outcome(msgspec.Struct, frozen=True):
    """Of a cell: its run, or why there is none."""

    cell: Cell
    num_requests: int
    best: Trial | None
    fault: str = ""


class Effort(msgspec.Struct, frozen=True):
    """``num_tries``: sizes of a step for each cell; None: all that are worth it."""

    num_requests: int
    num_processes: int = 2
    num_tries: int | None = None


class Folder:
    """Outcomes by number of requests and name of the cell."""

    def __init__(self, root: Path, num_requests: int) -> None:
        self.path = root / str(num_requests)

    def read(self, cell: Cell) -> Outcome | None:
        """None if it has not been run."""
        try:
            return msgspec.json.decode(self._file(cell).read_bytes(), type=Outcome)
        except FileNotFoundError:
            return None

    def write(self, outcome: Outcome) -> None:
        """Whole or not at all: a run may be killed at any time."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._file(outcome.cell)
        unfinished = file.with_suffix(".part")
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
        os.replace(unfinished, file)

    def read_all(self) -> Iterator[Outcome]:
        """Of every number of requests that was ever run here."""
        for file in sorted(self.path.parent.glob("*/*.json")):
            yield msgspec.json.decode(file.read_bytes(), type=Outcome)

    def _file(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.json"


@cache
def make_job(host_bytes: int) -> InferenceJob:
    """The settings of a job that leaves everything open but its host tier."""
    spec = {
        "model": {"uri": "hostPath:///model"},
        "input": {"uri": "prompts.jsonl"},
        "output": {"uri": "out/"},
        "kvCache": {"host": host_bytes},
    }
    head = {"apiVersion": "pipemax.dev/v1alpha1", "kind": "InferenceJob"}
    return InferenceJob.model_validate({**head, "metadata": {"name": "study"}, "spec": spec})


def cell_settings(cell: Cell, max_batched_tokens: int | None = None) -> SimulationSettings:
    """Raises KVTierError if the model does not fit."""
    node = load_node_profile(cell.hardware)
    model = load_model_config(SHAPES / cell.model)
    choice = EngineChoice(
        cell.system, max_batched_tokens, kv_dtype=KV_DTYPES[cell.kv], has_host_tier=cell.host
    )
    host_bytes = int(HOST_KV_SHARE * node.host.memory_bytes)
    return ablate(derive_simulation(make_job(host_bytes), model, node, choice), cell.ablation)


def step_sizes_of(cell: Cell) -> tuple[int, ...]:
    """That are tried, the likeliest first: what its users would tune. Steps about the knee are for
    those that put prompts beside decoding: phases of prompts alone gain nothing from them."""
    sizes = step_sizes(cell_settings(cell))
    usual, large = _USUAL_STEP_TOKENS
    if cell.system == "fused":
        return tuple(dict.fromkeys((*sizes[:2], usual)))
    if cell.system == "vllm":
        return tuple(dict.fromkeys((*sizes[1:2], usual, large, *sizes[:1])))
    return _USUAL_STEP_TOKENS


def run_cell(cell: Cell, num_requests: int, num_tries: int | None = None) -> Outcome:
    """With that of the first ``num_tries`` sizes of a step which does best, each tried on all
    requests: a sample is mostly its own beginning, which favours steps that fill the cards soon."""
    workload = ablate_workload(draw_workload(cell.workload, num_requests), cell.ablation)
    try:
        tried = [_try_out(cell, size, workload) for size in step_sizes_of(cell)[:num_tries]]
    except PipemaxError as error:
        return Outcome(cell, num_requests, None, str(error))
    best = min(tried, key=lambda trial: trial.seconds)
    cpu_seconds = sum(trial.cpu_seconds for trial in tried)
    return Outcome(cell, num_requests, msgspec.structs.replace(best, cpu_seconds=cpu_seconds))


def _try_out(cell: Cell, max_batched_tokens: int, workload: Workload) -> Trial:
    settings = cell_settings(cell, max_batched_tokens)
    start = time.process_time()
    if cell.ablation == "no-write-through":
        result = simulate_without_write_through(settings, workload)
    else:
        result = simulate_system(settings, workload)
    shares = derive_time_shares(settings, workload, result)
    return _describe(settings, result, shares, time.process_time() - start)


def _describe(
    settings: SimulationSettings,
    result: SimulationResult,
    shares: TimeShares | None,
    cpu_seconds: float,
) -> Trial:
    geometry, statistics = settings.geometry, result.statistics
    loads = [copies.num_bytes for copies in statistics.copies if copies.target == 0]
    return Trial(
        max_batched_tokens=settings.scheduler.max_batched_tokens,
        seconds=result.seconds,
        num_prompt_tokens=result.num_prompt_tokens,
        num_output_tokens=result.num_output_tokens,
        steady_seconds=result.steady_seconds,
        steady_prompt_tokens=result.steady_prompt_tokens,
        steady_output_tokens=result.steady_output_tokens,
        mean_batch_tokens=result.mean_batch_tokens,
        busy=sum(result.busy_ratios) / max(1, len(result.busy_ratios)),
        device_kv_tokens=geometry.num_device_slots * geometry.block_tokens,
        host_kv_tokens=geometry.num_host_slots * geometry.block_tokens,
        num_recomputed_tokens=statistics.num_recomputed_tokens,
        loaded_bytes=sum(loads),
        shares=shares,
        cpu_seconds=cpu_seconds,
    )


def run_cells(
    cells: Iterable[Cell],
    folder: Folder,
    effort: Effort,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Those that the folder lacks; ``on_outcome`` hears of each that was run."""
    lacking = [cell for cell in cells if folder.read(cell) is None]
    spawn = get_context("spawn")
    with ProcessPoolExecutor(effort.num_processes, mp_context=spawn) as pool:
        futures = [
            pool.submit(run_cell, cell, effort.num_requests, effort.num_tries) for cell in lacking
        ]
        for future in as_completed(futures):
            outcome = future.result()
            folder.write(outcome)
            on_outcome(outcome)
