"""Train the tiny model of ``models/tiny``, from nothing, on questions made as it goes.

    python tools/train_tiny.py --compile --time-limit 250 --output models/tiny

Made ``models/tiny`` on one H100 (torch 2.11, bfloat16 autocast): 11,028 steps, 361 million tokens,
250 s of training after 40 s of compiling. Of 8,192 fresh questions of all lengths the saved
weights answer, greedily and exactly: 99.99 % in float32, 100 % in bfloat16, 100 % with keys and
values rounded to FP8 (e4m3). Runs on a CPU too (no ``--compile``), a thousand times slower.

The clock ends a run, and sets its learning rate and curriculum. The best model so far is kept in
the output folder as it goes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_batches import FORMS, MIN_ROWS, SEQUENCE_LENGTHS, Batch, QuestionMaker
from tiny_model import TinyConfig, TinyModel, save_model
from torch import Tensor
from torch.nn import functional

BUCKET_SHARES = (0.25, 0.25, 0.25, 0.25)  # of the training steps, by sequence length
CURRICULUM_SHARE = 0.25  # of the time, until the longest sequences come in
WARM_UP_SHARE = 0.03
BATCHES_AT_ONCE = 16
EVALUATION_ROWS = 256  # a batch
EVALUATION_SEED = 10**9


@dataclass
class Score:
    """Questions answered right, by form and sequence length."""

    right: dict[tuple[str, int], int] = field(default_factory=dict)
    total: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, form: str, length: int, right: int, total: int) -> None:
        self.right[form, length] = self.right.get((form, length), 0) + right
        self.total[form, length] = self.total.get((form, length), 0) + total

    @property
    def accuracy(self) -> float:
        return sum(self.right.values()) / sum(self.total.values())

    def by_form(self) -> dict[str, dict[int, float]]:
        return {
            form: {
                length: round(self.right[form, length] / self.total[form, length], 4)
                for (name, length) in self.total
                if name == form
            }
            for form in FORMS
        }


def score_batch(model: Callable[[Tensor], Tensor], batch: Batch, length: int, score: Score) -> None:
    """Greedy decoding answers a question exactly if, at each position of the right answer, the
    likeliest token after the right tokens so far is the right one: one forward checks it all."""
    guesses = model(batch.tokens[:, :-1]).argmax(-1)
    wrong = (guesses != batch.tokens[:, 1:]) & batch.is_answer[:, 1:]
    right_rows = ~wrong.any(1)
    for index, form in enumerate(FORMS):
        chosen = batch.forms == index
        if total := int(chosen.sum()):
            score.add(form, length, int((right_rows & chosen).sum()), total)


@torch.no_grad()
def evaluate(model: TinyModel, device: torch.device, num_rows: int, bf16: bool, seed: int) -> Score:
    """Answer ``num_rows`` fresh questions of each sequence length, without compiled code."""
    maker, score = QuestionMaker(device, EVALUATION_SEED + seed), Score()
    for length in SEQUENCE_LENGTHS:
        for first in range(0, num_rows, EVALUATION_ROWS):
            batch = maker.batch(min(EVALUATION_ROWS, num_rows - first), length)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
            with torch.compiler.set_stance("force_eager"), autocast:
                score_batch(model, batch, length, score)
    return score


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine to zero; ``progress`` runs from 0 to 1 with the clock."""
    if progress < WARM_UP_SHARE:
        return peak * progress / WARM_UP_SHARE
    share = (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
    return peak * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def choose_length(progress: float) -> int:
    """Short sequences first; each longer one joins in as the curriculum goes on."""
    num_open = 1 + int(min(1.0, progress / CURRICULUM_SHARE) * (len(SEQUENCE_LENGTHS) - 1))
    shares = torch.tensor(BUCKET_SHARES[:num_open])
    return SEQUENCE_LENGTHS[int(torch.multinomial(shares, 1))]


def loss_of(model: TinyModel, batch: Batch) -> Tensor:
    logits = model(batch.tokens[:, :-1])
    targets = batch.tokens[:, 1:].masked_fill(~batch.is_answer[:, 1:], -100)
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def make_optimizer(model: TinyModel, weight_decay: float, fused: bool) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=fused)


class Trainer:
    """One training run, ended by the clock. Saves the best model so far as it goes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        torch.set_float32_matmul_precision("high")
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.model = TinyModel(TinyConfig()).to(self.device)
        self.optimizer = make_optimizer(
            self.model, arguments.weight_decay, self.device.type == "cuda"
        )
        self.maker = QuestionMaker(self.device, arguments.seed)
        self.best_accuracy = -1.0
        self.batches: dict[int, list[Batch]] = {}
        self.num_steps = 0
        self.num_tokens = 0
        if arguments.start is not None:
            weights = load_file(arguments.start / "model.safetensors", device=arguments.device)
            self.model.load_state_dict(weights)
        if arguments.compile:
            self._compile()

    def _compile(self) -> None:
        """Compile a layer (all layers share the code) for every batch shape, before the clock."""
        torch._dynamo.config.recompile_limit = 64
        for layer in self.model.model.each_layer():
            layer.compile(dynamic=False)
        for length in SEQUENCE_LENGTHS:
            self._backward(length)

    def run(self) -> None:
        begin = time.monotonic()
        next_evaluation = self.arguments.evaluate_every
        while (elapsed := time.monotonic() - begin) < self.arguments.time_limit:
            progress = elapsed / self.arguments.time_limit
            loss = self._step(progress)
            if self.num_steps % 250 == 0:
                print(
                    f"{elapsed:6.1f} s  step {self.num_steps}  loss {loss.item():.5f}", flush=True
                )
            if elapsed > next_evaluation:
                self._evaluate(elapsed)
                next_evaluation = elapsed + self.arguments.evaluate_every
        self._evaluate(time.monotonic() - begin)

    def _step(self, progress: float) -> Tensor:
        length = choose_length(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.arguments.learning_rate)
        loss = self._backward(length)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.num_steps += 1
        self.num_tokens += self._num_rows(length) * length
        return loss

    def _num_rows(self, length: int) -> int:
        return max(MIN_ROWS, int(self.arguments.batch_tokens) // length)

    def _next_batch(self, length: int) -> Batch:
        """Batches are made several at once: that takes hundreds of small kernels."""
        waiting = self.batches.setdefault(length, [])
        if not waiting:
            num_rows = self._num_rows(length)
            made = self.maker.batch(BATCHES_AT_ONCE * num_rows, length)
            for first in range(0, BATCHES_AT_ONCE * num_rows, num_rows):
                rows = slice(first, first + num_rows)
                waiting.append(Batch(made.tokens[rows], made.is_answer[rows], made.forms[rows]))
        return waiting.pop()

    def _backward(self, length: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        batch = self._next_batch(length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _evaluate(self, elapsed: float) -> None:
        bf16 = self.device.type == "cuda"
        num_rows = self.arguments.evaluate_rows
        score = evaluate(self.model, self.device, num_rows, bf16=bf16, seed=self.num_steps)
        print(f"{elapsed:6.1f} s  step {self.num_steps}  right {score.accuracy:.4f}", flush=True)
        for form, accuracies in score.by_form().items():
            print(f"    {form:13} {accuracies}", flush=True)
        if score.accuracy >= self.best_accuracy:
            self.best_accuracy = score.accuracy
            save_model(self.model, self.arguments.output)


def final_report(trainer: Trainer, num_rows: int) -> dict[str, object]:
    """Accuracy of the weights as saved (bfloat16), computed in float32, bfloat16 and FP8 KV."""
    model, device = trainer.model, trainer.device
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    torch.set_float32_matmul_precision("highest")
    report: dict[str, object] = {"steps": trainer.num_steps, "tokens": trainer.num_tokens}
    score = evaluate(model, device, num_rows, bf16=False, seed=1)
    report["questions"] = sum(score.total.values())
    report["float32"], report["float32_by_form"] = score.accuracy, score.by_form()
    report["bfloat16"] = evaluate(model, device, num_rows, bf16=True, seed=1).accuracy
    model.simulate_fp8_kv(True)
    report["float32_fp8_kv"] = evaluate(model, device, num_rows, bf16=False, seed=1).accuracy
    model.simulate_fp8_kv(False)
    return report


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--start", type=Path, help="folder of a model to train on")
    parser.add_argument("--time-limit", type=float, default=300, help="seconds of training")
    parser.add_argument("--evaluate-every", type=float, default=30, help="seconds")
    parser.add_argument("--evaluate-rows", type=int, default=256, help="a sequence length")
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--final-rows", type=int, default=2048, help="a sequence length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    trainer = Trainer(parse_arguments(arguments))
    trainer.run()
    print(json.dumps(final_report(trainer, trainer.arguments.final_rows), indent=1))


if __name__ == "__main__":
    main()
