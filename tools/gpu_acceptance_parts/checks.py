"""Parts that ask whether answers, tokens and bytes are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from gpu_acceptance_parts.files import fresh, load_json
from gpu_acceptance_parts.part import Figure, Part, Setting, speed
from gpu_acceptance_parts.running import ROOT, python

LEAST_RIGHT = 0.99
STAGE_TESTS = "tests/unit/pipemax_worker/stage/kv"
PIPELINE_TESTS = "tests/unit/pipemax_worker/pipeline"
WITHOUT_INSTALLATION = ("-q", "-p", "no:cacheprovider", "-W", "default")
"""Other versions than the tested ones warn of other things."""

_COUNT = re.compile(r"(\d+) (passed|failed|error)")
_QUICKSTART = re.compile(
    r"^\d+ \w+ stages, ([\w ]+): (\d+)/(\d+) right, ([\d.]+) tokens/s, .*moved (.*)$", re.MULTILINE
)
_RESUMED = re.compile(r"stop and resume: exit (\d+) then (\d+), (\d+)/(\d+) right")
_AGREEMENT = re.compile(
    r"^(\d+ stages, rotation \w+): ([\d.]+) % .*?, ([\d.]+) % of tokens", re.MULTILINE
)
_STOPPED = re.compile(
    r"^\S+ +(on|off) +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +(-?\d+)/(\d+)", re.MULTILINE
)


def pytest(*words: object) -> list[object]:
    return python("-m", "pytest", *words, *WITHOUT_INSTALLATION)


def _kernels(setting: Setting) -> Sequence[object]:
    return pytest("tests/gpu", "--ignore", "tests/gpu/test_kv_replay.py")


def _replay(setting: Setting) -> Sequence[object]:
    files = [f"{STAGE_TESTS}/test_replay.py", f"{STAGE_TESTS}/test_mover.py"]
    if not setting.is_cpu:
        files.append("tests/gpu/test_kv_replay.py")
        # With fewer GPUs than they want these would run on the processor alone.
        for wanted, name in ((2, "test_rotation.py"), (4, "test_real_models.py")):
            files += [f"{PIPELINE_TESTS}/{name}"] * (setting.num_stages >= wanted)
    return pytest(*files)


def read_pytest(setting: Setting, printed: str) -> list[Figure]:
    """Of its last line; without one it has not come to an end."""
    counts = {kind: int(number) for number, kind in _COUNT.findall(printed)}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    passed = counts.get("passed")
    if passed is None and not bad:
        raise ValueError("no test has run")
    return [
        Figure("passed", passed, "tests"),
        Figure("failed", bad, "tests", "0", bad == 0),
    ]


def _quickstart(setting: Setting) -> Sequence[object]:
    requests, *more = (60, "--cpu") if setting.is_cpu else (200,)
    words = ("--stages", setting.num_stages, "--requests", requests)
    return python("tools/gpu_check.py", *words, *more)


def read_quickstart(setting: Setting, printed: str) -> list[Figure]:
    figures = []
    for name, right, total, rate, moved in _QUICKSTART.findall(printed):
        share = int(right) / int(total)
        goal = f">= {LEAST_RIGHT:.0%}"
        figures.append(Figure(f"{name}: right", share, "", goal, share >= LEAST_RIGHT))
        figures.append(speed(f"{name}: tokens/s, {moved}", float(rate), "tokens/s"))
    if found := _RESUMED.search(printed):
        first, second, right, total = map(int, found.groups())
        is_good = first in (0, 75) and second == 0 and right >= LEAST_RIGHT * total
        figures.append(Figure("stop and resume: exit codes", f"{first}, {second}", "", "75, 0",
                              is_good))  # fmt: skip
    if not figures:
        raise ValueError("no run has ended")
    return figures


def _transformers(setting: Setting) -> Sequence[object]:
    words = ("--requests", 2, "--models", "qwen2") if setting.is_cpu else ("--requests", 32)
    return python("tools/gpu_transformers.py", *words, "--json", fresh(setting, "transformers"))


def read_transformers(setting: Setting, printed: str) -> list[Figure]:
    return [
        Figure(
            f"{row['model']}: tokens that are float32's choice", row["ours"], "",
            f">= {row['transformers_bfloat16'] - 0.01:.4f}, transformers' bfloat16 less a point",
            row["ours"] >= row["transformers_bfloat16"] - 0.01,
        )
        for row in load_json(setting, "transformers")
    ]  # fmt: skip


def _agreement(setting: Setting) -> Sequence[object]:
    if setting.is_cpu:
        words = ("--shape", "models/tiny", "--stages", 1, 2, "--requests", 8)
        return python("tools/gpu_agreement.py", *words)
    return python("tools/gpu_agreement.py", "--stages", *sorted({1, setting.num_stages}))


def read_agreement(setting: Setting, printed: str) -> list[Figure]:
    figures = [
        Figure(f"{name}: tokens before a difference", float(tokens) / 100)
        for name, _, tokens in _AGREEMENT.findall(printed)
    ]
    if not figures:
        raise ValueError("no run has ended")
    return figures


def write_quickstart(setting: Setting) -> Path:
    """The quickstart's job on this machine's device, its places spelled out."""
    source = ROOT / "manifests" / "examples" / "quickstart"
    job = yaml.safe_load((source / "job.yaml").read_text("utf-8"))
    spec = job["spec"]
    spec["model"]["uri"] = str(ROOT / "models" / "tiny")
    spec["input"]["uri"] = str(source / "prompts.jsonl")
    spec["engine"]["device"] = "cpu" if setting.is_cpu else "cuda"
    spec["parallelism"]["stagesPerNode"] = setting.num_stages
    setting.scratch.mkdir(parents=True, exist_ok=True)
    path = setting.scratch / "quickstart.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def _stop_resume(setting: Setting) -> Sequence[object]:
    requests = ("--requests", 200) if setting.is_cpu else ()
    return python("tools/stop_resume.py", "--job", write_quickstart(setting), *requests)


def read_stop_resume(setting: Setting, printed: str) -> list[Figure]:
    figures = []
    for parking, _, computed, twice, _, seconds, parked, records, lines in _STOPPED.findall(
        printed
    ):
        name = f"parking {parking}"
        is_whole = records == lines
        figures.append(Figure(f"{name}: records", int(records), "", lines, is_whole))
        if parking == "on":
            is_kept = int(twice) == 0
            figures.append(Figure(f"{name}: tokens computed twice", int(twice), "", "0", is_kept))
            figures.append(Figure(f"{name}: MiB parked", float(parked), "MiB"))
        else:
            figures.append(Figure(f"{name}: tokens computed twice", int(twice)))
        figures.append(Figure(f"{name}: tokens computed at the stop", int(computed)))
        figures.append(speed(f"{name}: seconds to stop", float(seconds), "s"))
    if not figures:
        raise ValueError("no job has ended")
    return figures


KERNELS = Part(
    "kernels", "the kernels' tests: FlashInfer, graphs, experts, energy, preflight", 330.0,
    _kernels, read_pytest, runs_on_cpu=False,
)  # fmt: skip
REPLAY = Part(
    "replay", "KV and logits bit-equal with offloading on and off, through all tiers", 200.0,
    _replay, read_pytest,
)  # fmt: skip
QUICKSTART = Part(
    "quickstart", "the quickstart in all settings of the tiers, stopped and resumed", 300.0,
    _quickstart, read_quickstart,
)  # fmt: skip
TRANSFORMERS = Part(
    "transformers", "greedy tokens against transformers' float32, as often as its bfloat16", 150.0,
    _transformers, read_transformers,
)  # fmt: skip
AGREEMENT = Part(
    "agreement", "greedy tokens by one stage and several, without rotation and with it", 150.0,
    _agreement, read_agreement,
)  # fmt: skip
STOP_RESUME = Part(
    "stop-resume", "SIGTERM at half time and on again: what is computed twice", 240.0,
    _stop_resume, read_stop_resume,
)  # fmt: skip
