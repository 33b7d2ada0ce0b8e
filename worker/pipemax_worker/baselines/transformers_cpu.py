"""transformers on the CPU, float32, as a process: loads the model once, then obeys orders.

python -m pipemax_worker.baselines.transformers_cpu MODEL_FOLDER WORK_FILE NUM_THREADS
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from pipemax_worker.baselines.continuous import run_continuous
from pipemax_worker.baselines.orders import Answer, Order, Work
from pipemax_worker.baselines.padded import run_padded

METHODS: dict[str, Callable[[Any, Work, Order], Answer]] = {
    "padded": run_padded,
    "continuous": run_continuous,
}


def main(arguments: list[str]) -> int:
    """An empty :class:`Answer` says that the model is loaded; then one for each order."""
    folder, work_file, num_threads = arguments
    with os.fdopen(os.dup(1), "wb", buffering=0) as answers:
        os.dup2(2, 1)  # whatever libraries print must not mix with the answers
        torch.set_num_threads(int(num_threads))
        work = msgspec.json.decode(Path(work_file).read_bytes(), type=Work)
        model = load_model(folder)
        answers.write(msgspec.json.encode(Answer()) + b"\n")
        for line in sys.stdin.buffer:
            answer = obey(model, work, msgspec.json.decode(line, type=Order))
            answers.write(msgspec.json.encode(answer) + b"\n")
    return 0


def load_model(folder: str) -> Any:
    """In float32, with the model's own generation defaults (its end of sequence) out of the way."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.generation_config = GenerationConfig()
    return model


def obey(model: Any, work: Work, order: Order) -> Answer:
    """Run one order; an error of the engine becomes the answer."""
    chosen = work if order.num_requests is None else work.first(order.num_requests)
    try:
        return METHODS[order.method](model, chosen, order)
    except Exception as error:
        return Answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
