"""The bare Llama of the training script is transformers' Llama; the shipped model answers."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_batches import QuestionMaker
from tiny_model import TinyConfig, TinyModel, config_json, save_model
from tiny_task import (
    LIST_TASKS,
    TABLE_TASKS,
    Question,
    chat_messages,
    is_right,
    random_list_question,
    random_table,
    random_table_question,
)
from train_tiny import Score, score_batch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

SMALL = TinyConfig(num_layers=2, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2)


def test_transformers_computes_the_same_from_the_saved_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TinyModel(SMALL)
    save_model(model, tmp_path)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))  # as rounded to bfloat16
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(SMALL.vocab_size, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), oracle(tokens).logits, rtol=1e-4, atol=1e-5)


def test_fp8_keys_and_values_change_little_and_can_be_switched_off() -> None:
    torch.manual_seed(0)
    model = TinyModel(SMALL)
    tokens = torch.randint(SMALL.vocab_size, (1, 20))
    with torch.no_grad():
        exact = model(tokens)
        model.simulate_fp8_kv(True)
        rounded = model(tokens)
        model.simulate_fp8_kv(False)
        assert torch.equal(model(tokens), exact)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.2, atol=0.05)


def test_the_shipped_configuration_is_the_scripts(tiny_folder: Path) -> None:
    shipped = json.loads((tiny_folder / "config.json").read_text(encoding="utf-8"))
    assert shipped == config_json(TinyConfig())
    assert (tiny_folder / "model.safetensors").stat().st_size < 6_000_000


def short_questions() -> list[Question]:
    source = random.Random(7)
    lists = [
        random_list_question(source, task, source.randint(1, 12))
        for task in LIST_TASKS
        for _ in range(4)
    ]
    table = random_table(source, 12)
    pairs = [
        random_table_question(source, task, table, 3) for task in TABLE_TASKS for _ in range(4)
    ]
    return lists + pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shipped_model_answers_with_transformers(tiny_folder: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder, padding_side="left")
    conversations = [chat_messages(question) for question in short_questions()]
    inputs = tokenizer.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=16,
    )
    answers = tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    for messages, answer in zip(conversations, answers, strict=True):
        assert is_right({"messages": messages}, answer), (messages, answer)


def test_the_shipped_model_answers_long_questions(tiny_folder: Path) -> None:
    model = TinyModel(TinyConfig())
    model.load_state_dict(load_file(tiny_folder / "model.safetensors"))
    score = Score()
    with torch.no_grad():
        score_batch(model, QuestionMaker(torch.device("cpu"), seed=11).batch(24, 528), 528, score)
    assert sum(score.total.values()) == 24
    assert score.accuracy == 1.0
