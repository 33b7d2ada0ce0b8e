"""Greedy tokens of the pipeline against transformers' `generate`, float32 on the CPU.

    python tools/exactness.py                                 # random-weight models, all settings
    python tools/exactness.py --random mixtral,qwen3-moe
    python tools/exactness.py --model models/SmolLM2-135M-Instruct --requests 24

For every model: 1, 2 and 8 stages (as many as it has layers for), a device tier of exactly one
longest request and its prefetch area with a host tier so small that KV goes through NVMe, and a
roomy one; prefix sharing on and off. A comparison stops where the oracle's two best logits are
closer than 1e-4. Exits 1 if a token differs or less than 99.9 % of the positions were compared.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "worker")]

from kit.models import save_model  # noqa: E402 (the path is set above)
from kit.oracle import Comparison, OracleAnswer, ask_oracle, compare  # noqa: E402
from pipemax_worker.contract.geometry import Tier, num_blocks_for  # noqa: E402
from pipemax_worker.contract.model_config import ModelConfig, load_model_config  # noqa: E402
from pipemax_worker.contract.request import RecordKey, Request, SamplingParams  # noqa: E402
from pipemax_worker.contract.statistics import EngineStatistics  # noqa: E402
from pipemax_worker.pipeline.settings import PipelineSettings, build_geometry  # noqa: E402
from pipemax_worker.runner.session import open_session  # noqa: E402
from pipemax_worker.runner.sizing import SessionSettings  # noqa: E402

RANDOM_MODELS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3-moe")
BLOCK_TOKENS = 8
MIN_SHARE_COMPARED = 0.999


@dataclass(frozen=True)
class Setting:
    """One way to run. ``is_tight``: the least device tier that works, and NVMe below."""

    num_stages: int
    is_tight: bool
    prefix_sharing: bool
    run_ahead: bool = False

    def __str__(self) -> str:
        return (
            f"{self.num_stages} stages, {'tight' if self.is_tight else 'roomy'} device tier, "
            f"prefix sharing {'on' if self.prefix_sharing else 'off'}"
            + (", running ahead" if self.run_ahead else "")
        )


@dataclass(frozen=True)
class Work:
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: tuple[int, ...]

    @property
    def longest_blocks(self) -> int:
        lengths = (len(p) + m for p, m in zip(self.prompts, self.max_tokens, strict=True))
        return num_blocks_for(max(lengths), BLOCK_TOKENS)


def make_work(vocab_size: int, num_requests: int, max_prompt: int, seed: int = 0) -> Work:
    """Prompts of very different lengths; every third begins like the one before it."""
    generator = random.Random(seed)
    prompts: list[tuple[int, ...]] = []
    for number in range(num_requests):
        length = max(1, int(max_prompt * generator.random() ** 2))
        prompt = [generator.randrange(3, vocab_size) for _ in range(length)]
        if number % 3 == 2:
            shared = prompts[-1][: 3 * len(prompts[-1]) // 4]
            prompt = [*shared, *prompt][:max_prompt]
        prompts.append(tuple(prompt))
    max_tokens = tuple(generator.randrange(8, 49) for _ in prompts)
    return Work(tuple(prompts), max_tokens)


def session_settings(
    folder: Path, config: ModelConfig, setting: Setting, work: Work, nvme_folder: Path
) -> SessionSettings:
    """Tight: device = one longest request and as much again; host = the same; rest on NVMe."""
    blocks = work.longest_blocks
    pipeline = PipelineSettings(
        model_folder=folder,
        model_config=config,
        num_stages=setting.num_stages,
        dtype="float32",
        kv_dtype="float32",
        block_tokens=BLOCK_TOKENS,
        max_batched_tokens=64,
        max_num_requests=64,
        host_kv_bytes=1 << 40,
        nvme_kv_bytes=1 << 30 if setting.is_tight else 0,
        nvme_folder=nvme_folder if setting.is_tight else None,
        device_kv_bytes=1 << 40,
    )
    shape = build_geometry(pipeline)
    device_blocks = 2 * blocks if setting.is_tight else 16 * blocks
    host_blocks = 2 * blocks if setting.is_tight else 20 * blocks
    largest_slot = max(shape.slot_bytes(stage) for stage in range(shape.num_stages))
    pipeline = PipelineSettings(
        **{
            **{name: getattr(pipeline, name) for name in pipeline.__struct_fields__},
            "device_kv_bytes": device_blocks * largest_slot,
            "host_kv_bytes": host_blocks * shape.block_bytes(),
        }
    )
    return SessionSettings(
        pipeline=pipeline,
        num_micro_batches=max(2, setting.num_stages),
        policy="fused",
        prefix_sharing=setting.prefix_sharing,
        max_num_running=64,
        run_ahead=setting.run_ahead,
        # Admit by the prompt alone: growth then runs out of host memory, and KV goes to NVMe.
        growth_reserve_ratio=0.0 if setting.is_tight else 1.0,
    )


def generate(settings: SessionSettings, work: Work) -> tuple[list[Sequence[int]], EngineStatistics]:
    """The pipeline's greedy tokens for every prompt, end of sequence ignored."""
    answers: dict[int, Sequence[int]] = {}
    with open_session(settings) as session:
        engine = session.engine
        for number, (prompt, count) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
            sampling = SamplingParams(max_tokens=count, min_tokens=count, temperature=0.0)
            engine.add_request(Request(RecordKey("work", number), 0, prompt, sampling), None)
        while engine.has_unfinished_requests:
            for finished in engine.step():
                answers[finished.key.offset] = finished.token_ids
        statistics = engine.statistics
    return [answers[number] for number in range(len(work.prompts))], statistics


def settings_for(config: ModelConfig, run_ahead: bool) -> Iterator[Setting]:
    for num_stages in (1, 2, 8):
        if num_stages <= config.num_hidden_layers:
            for is_tight, sharing in itertools.product((True, False), (True, False)):
                yield Setting(num_stages, is_tight, sharing, run_ahead)


def check(folder: Path, name: str, num_requests: int, max_prompt: int, run_ahead: bool) -> bool:
    """Run every setting on one model; print a line each; True if all were exact."""
    config = load_model_config(folder)
    work = make_work(config.vocab_size, num_requests, max_prompt)
    start = time.monotonic()
    oracle = ask_oracle(folder, work.prompts, work.max_tokens)
    print(f"{name}: oracle took {time.monotonic() - start:.1f} s", flush=True)
    return all(
        [
            check_setting(folder, name, config, work, oracle, setting)
            for setting in settings_for(config, run_ahead)
        ]
    )


def check_setting(
    folder: Path,
    name: str,
    config: ModelConfig,
    work: Work,
    oracle: Sequence[OracleAnswer],
    setting: Setting,
) -> bool:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="exactness-") as nvme_folder:
        settings = session_settings(folder, config, setting, work, Path(nvme_folder))
        answers, statistics = generate(settings, work)
    total = Comparison(0, 0, 0)
    for expected, answer in zip(oracle, answers, strict=True):
        total += compare(expected, answer)
    moved = {
        f"{copy.source.name.lower()}>{copy.target.name.lower()}": copy.num_bytes >> 10
        for copy in statistics.copies
        if copy.num_bytes
    }
    uses_nvme = any(Tier.NVME in (copy.source, copy.target) for copy in statistics.copies)
    good = total.is_exact and total.share_compared >= MIN_SHARE_COMPARED
    print(
        f"{name}: {setting}: {total.num_equal}/{total.num_compared} equal, "
        f"{total.share_compared:.2%} compared, KiB moved {moved}, "
        f"{statistics.num_cached_tokens} cached, {statistics.num_recomputed_tokens} recomputed, "
        f"{time.monotonic() - start:.1f} s"
        + ("" if good else "  <-- NOT EXACT")
        + ("" if uses_nvme or not setting.is_tight else "  (NVMe not reached)"),
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder (default: random models)")
    parser.add_argument(
        "--random", metavar="A,B", help=f"of the random models (default: {','.join(RANDOM_MODELS)})"
    )
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--max-prompt", type=int, default=160)
    parser.add_argument("--run-ahead", action="store_true")
    options = parser.parse_args()
    if options.model is not None:
        good = check(
            options.model,
            options.model.name,
            options.requests,
            options.max_prompt,
            options.run_ahead,
        )
        return 0 if good else 1
    good = True
    for name in options.random.split(",") if options.random else RANDOM_MODELS:
        with tempfile.TemporaryDirectory(prefix="exactness-model-") as folder:
            save_model(Path(folder), name, num_hidden_layers=8)
            good &= check(
                Path(folder), name, options.requests, options.max_prompt, options.run_ahead
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
