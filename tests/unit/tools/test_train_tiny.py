"""The training script: its schedule, its scores, and a run of a few steps."""

from pathlib import Path

import pytest
import tiny_tokenizer
import torch
import train_tiny
from tiny_batches import FORMS, Batch
from torch import Tensor
from train_tiny import Score, choose_length, learning_rate, score_batch


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(progress / 100, 1.0) for progress in range(101)]
    assert rates[0] == 0.0
    assert max(rates) == rates[3] == 1.0
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[100] == pytest.approx(0.0)
    assert learning_rate(1.5, 1.0) == pytest.approx(0.0)


def test_the_curriculum_begins_with_short_sequences() -> None:
    torch.manual_seed(0)
    assert {choose_length(0.0) for _ in range(20)} == {train_tiny.SEQUENCE_LENGTHS[0]}
    assert {choose_length(0.5) for _ in range(200)} == set(train_tiny.SEQUENCE_LENGTHS)


def batch_of(rows: list[list[int]], num_prompt_tokens: int, form: str) -> Batch:
    tokens = torch.tensor(rows)
    is_answer = torch.zeros_like(tokens, dtype=torch.bool)
    is_answer[:, num_prompt_tokens:] = True
    return Batch(tokens, is_answer, torch.full((len(rows),), FORMS.index(form)))


def next_number(tokens: Tensor) -> Tensor:
    """A model that is sure that each token is followed by the next id."""
    logits = torch.zeros(*tokens.shape, len(tiny_tokenizer.VOCABULARY))
    return logits.scatter(2, tokens[..., None] + 1, 1.0)


def test_a_row_counts_only_if_its_whole_answer_is_right() -> None:
    score = Score()
    rows = [[9, 20, 21, 22], [9, 20, 21, 23], [9, 20, 25, 26]]
    score_batch(next_number, batch_of(rows, 2, "copy"), 64, score)
    assert score.by_form()["copy"] == {64: 0.3333}
    assert score.accuracy == pytest.approx(1 / 3)


def test_tokens_of_the_prompt_do_not_count() -> None:
    score = Score()
    score_batch(next_number, batch_of([[99, 20, 21]], 2, "sort"), 64, score)
    assert score.accuracy == 1.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Arguments of a run that ends after a moment."""
    monkeypatch.setattr(train_tiny, "SEQUENCE_LENGTHS", (64,))
    monkeypatch.setattr(train_tiny, "BATCHES_AT_ONCE", 2)
    steps = {"--time-limit": "0.5", "--evaluate-every": "9", "--batch-tokens": "64"}
    rows = {"--evaluate-rows": "24", "--final-rows": "24", "--device": "cpu"}
    settings = {"--output": str(tmp_path / "model"), **steps, **rows}
    return [word for pair in settings.items() for word in pair]


def test_a_run_trains_saves_and_reports(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny.main(quick)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert '"float32_fp8_kv"' in capsys.readouterr().out


def test_a_step_lowers_the_loss_and_moves_every_weight(quick: list[str]) -> None:
    trainer = train_tiny.Trainer(train_tiny.parse_arguments(quick))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    losses = [float(trainer._step(0.03)) for _ in range(6)]
    assert min(losses) < losses[0]
    after = list(trainer.model.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_training_can_go_on_from_a_folder(quick: list[str], tiny_folder: Path) -> None:
    arguments = train_tiny.parse_arguments([*quick, "--start", str(tiny_folder)])
    trainer = train_tiny.Trainer(arguments)
    score = train_tiny.evaluate(trainer.model, trainer.device, 32, bf16=False, seed=0)
    assert score.accuracy == 1.0
