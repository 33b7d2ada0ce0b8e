"""The baselines generate what was asked for: greedy tokens, exact lengths, nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kit.models import VOCAB_SIZE, build_oracle, save_model
from pipemax_worker.baselines.continuous import num_blocks_for
from pipemax_worker.baselines.orders import Order, Work
from pipemax_worker.baselines.padded import cut_batches, run_padded
from pipemax_worker.baselines.transformers_cpu import obey
from pipemax_worker.runner import bench_baseline
from pipemax_worker.runner.bench_baseline import Baseline, open_baseline
from pipemax_worker.runner.bench_work import BenchWork
from transformers import GenerationConfig, PreTrainedModel

PROMPTS = ((5, 6, 7, 8, 9), (10,), (11, 12, 13), (14, 15))
WORK = Work(PROMPTS, (3, 6, 2, 5))


@pytest.fixture(name="model", scope="module")
def fixture_model() -> PreTrainedModel:
    model = build_oracle("llama")
    model.generation_config = GenerationConfig()
    return model


def one_by_one(model: PreTrainedModel) -> tuple[tuple[int, ...], ...]:
    """The oracle: no batch, no padding, no cache of another's making."""
    answers = []
    for prompt, count in zip(WORK.prompts, WORK.max_tokens, strict=True):
        token_ids = list(prompt)
        for _ in range(count):
            with torch.inference_mode():
                logits = model(torch.tensor([token_ids])).logits  # [1, num_tokens, vocab]
            token_ids.append(int(logits[0, -1].argmax()))
        answers.append(tuple(token_ids[len(prompt) :]))
    return tuple(answers)


@pytest.mark.parametrize("order", [Order("padded", 1), Order("padded", 3, "total")])
def test_padded_batches_give_the_tokens_of_single_requests(
    model: PreTrainedModel, order: Order
) -> None:
    answer = run_padded(model, WORK, order)
    assert answer.token_ids == one_by_one(model)
    assert answer.seconds > 0


def test_batches_hold_everybody_once_and_alike_lengths_together() -> None:
    assert cut_batches(WORK, Order("padded", 2, "output")) == [[2, 0], [3, 1]]
    assert cut_batches(WORK, Order("padded", 3, "total")) == [[2, 1, 3], [0]]


def test_an_order_may_ask_for_the_first_requests_alone(model: PreTrainedModel) -> None:
    answer = obey(model, WORK, Order("padded", num_requests=2))
    assert tuple(map(len, answer.token_ids)) == (3, 6)


def test_an_error_becomes_the_answer(model: PreTrainedModel) -> None:
    broken = Work(((VOCAB_SIZE + 5,),), (1,))
    answer = obey(model, broken, Order("padded"))
    assert answer.error is not None
    assert answer.error.startswith("IndexError: ")
    assert answer.token_ids == ()


def test_pages_are_counted_for_the_longest_that_run_together() -> None:
    work = Work(((1,) * 10, (1,) * 30, (1,)), (5, 1, 1))
    assert num_blocks_for(work, 2, 8) - num_blocks_for(work, 1, 8) == 2
    assert num_blocks_for(work, 3, 8) >= 4 + 2 + 1


@pytest.fixture(name="baseline", scope="module")
def fixture_baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Baseline]:
    folder = save_model(tmp_path_factory.mktemp("model"), "llama")
    work = BenchWork(WORK.prompts, WORK.max_tokens)
    with open_baseline("transformers", Path(folder), work) as baseline:
        yield baseline


@pytest.mark.parametrize(
    "order",
    [
        bench_baseline.Order("padded", batch_size=2),
        bench_baseline.Order("continuous", max_requests=2, page_size=8),
        bench_baseline.Order("continuous", page_size=16, max_batch_tokens=8),
    ],
    ids=lambda order: order.name,
)
def test_the_process_obeys_the_driver_s_orders(
    model: PreTrainedModel, baseline: Baseline, order: bench_baseline.Order
) -> None:
    answer = baseline.run(order)
    assert answer.error is None
    assert answer.token_ids == one_by_one(model)


def test_an_unknown_method_leaves_the_process_alive(baseline: Baseline) -> None:
    assert baseline.run(bench_baseline.Order("magic")).error == "KeyError: 'magic'"
    assert baseline.run(bench_baseline.Order("padded", num_requests=1)).error is None
