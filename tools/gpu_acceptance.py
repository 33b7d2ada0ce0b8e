"""One acceptance run of this machine's GPUs: named parts, in the order of what they are worth.

    python tools/gpu_acceptance.py                              # all parts, into out/gpu-acceptance
    python tools/gpu_acceptance.py --list
    python tools/gpu_acceptance.py --parts kernels,step --out DIR
    python tools/gpu_acceptance.py --budget-seconds 560 --resume    # what an earlier call has left
    python tools/gpu_acceptance.py --cpu                        # tiny sizes, where there is no GPU

Each part is a program with a limit of time and a log of its own; what it found is a line of
``results.jsonl`` as soon as it ends, so a run that is cut loses one part at most. At the end:
goals, what was measured, held or not. Exits 1 if a goal was missed or a part failed. docs/gpu.md
says what each part means.

It needs no model weights but the tiny model's: all others are random, made on the GPU from a shape.

Nothing has to be installed: a plain copy of the repository will do, with torch >= 2.11, triton,
transformers >= 5.17, safetensors, tokenizers, numpy, pyyaml, rich, jinja2, prometheus-client,
nvidia-ml-py, pytest, pytest-timeout and hypothesis there. What a machine with these lacks can be
unpacked beside (``pip install --no-index --no-deps --target SITE *.whl``, then PYTHONPATH=SITE):
pydantic, pydantic_core, annotated_types, typing_inspection, typing_extensions, msgspec, pyzmq,
obstore, llguidance, flashinfer_python, apache_tvm_ffi. FlashInfer's kernels are compiled at their
first use (nvcc, a minute or two); they stay in the user's cache.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "worker"))

from gpu_acceptance_parts.catalogue import PARTS, choose  # noqa: E402 (the path is set above)
from gpu_acceptance_parts.machine import conditions_of, find_machine  # noqa: E402
from gpu_acceptance_parts.part import Machine, Part, Setting  # noqa: E402
from gpu_acceptance_parts.running import (  # noqa: E402
    HELD,
    MISSED,
    RAN,
    RESULTS,
    Run,
    exit_code,
    read_results,
    table,
)

DEFAULT_FOLDER = ROOT / "out" / "gpu-acceptance"


def say(line: str) -> None:
    print(line, flush=True)


def list_parts(machine: Machine, is_cpu: bool, folder: Path) -> None:
    setting = Setting(machine, folder, is_cpu)
    for part in PARTS:
        lacking = part.why_not_on(setting)
        note = f"  ({lacking})" if lacking else ""
        say(f"{part.name:<16} {part.seconds:>4.0f} s at most  {part.shows}{note}")


def parts_left(parts: Sequence[Part], folder: Path) -> list[Part]:
    """Without those that have come to an end in an earlier call."""
    known = read_results(folder / RESULTS)
    ended = {name for name, one in known.items() if one.outcome in (HELD, MISSED, RAN)}
    return [part for part in parts if part.name not in ended]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--parts", metavar="A,B", help="only these; 'step' means all that begin so")
    add("--out", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER", help="default: %(default)s")
    add("--budget-seconds", type=float, metavar="S", help="of all parts together")
    add("--resume", action="store_true", help="without parts that have ended in FOLDER before")
    add("--cpu", action="store_true", help="tiny sizes on the CPU, to see that the parts work")
    add("--list", action="store_true", help="say which parts there are")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    machine = find_machine()
    folder = options.out.resolve()
    if options.list:
        list_parts(machine, options.cpu, folder)
        return 0
    try:
        parts = choose(None if options.parts is None else options.parts.split(","))
    except ValueError as error:
        say(f"gpu_acceptance: {error}")
        return 2
    if machine.num_gpus == 0 and not options.cpu:
        say("gpu_acceptance: no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES); --cpu runs "
            "what runs without one")  # fmt: skip
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        (folder / RESULTS).unlink(missing_ok=True)
    conditions = conditions_of(machine) | {"sizes": "tiny, on the CPU" if options.cpu else "full"}
    say(f"{conditions['gpus']} x {conditions['gpu']}, {conditions['cores']} cores, "
        f"{conditions['versions']}")  # fmt: skip
    run = Run(Setting(machine, folder, options.cpu), conditions, options.budget_seconds, say)
    try:
        results = run.carry_out(parts_left(parts, folder) if options.resume else parts)
    finally:
        shutil.rmtree(folder / "scratch", ignore_errors=True)
    say("")
    known = read_results(folder / RESULTS)
    shown = list(known.values()) if options.resume else results
    for line in table(shown):
        say(line)
    return exit_code(shown)


if __name__ == "__main__":
    sys.exit(main())
