"""A stage's layers against transformers' models in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.devices import DEVICES
from kit.models import MODELS, VOCAB_SIZE, build_oracle
from kit.oracle import ask_oracle, compare
from kit.paged_model import CPU, PagedModel
from pipemax_worker.errors import InvariantError

FolderOf = Callable[[str], Path]

CUTS_OF_THREE = ((True, False, False), (False, True, False), (True, True, False))
"""Of three stages, those that leave the MLP of their last layer."""


def random_tokens(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("uses_native", [True, False], ids=["c", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers_in_odd_chunks(
    name: str, uses_native: bool, model_folder: FolderOf
) -> None:
    """After each chunk of two requests, the logits are the oracle's at that position."""
    token_ids = random_tokens(2, 45)
    with torch.inference_mode():
        expected = build_oracle(name)(token_ids).logits
    model = PagedModel(model_folder(name), (4,), uses_native=uses_native)
    assert (model.stages[0]._native is not None) == uses_native
    position = 0
    for size in (7, 1, 1, 12, 1, 23):
        part = token_ids[:, position : position + size].tolist()
        logits = model.forward(dict(enumerate(part)))
        position += size
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected[:, position - 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_generate(name: str, model_folder: FolderOf) -> None:
    prompts = [random_tokens(length, seed=length).tolist() for length in (1, 9, 30)]
    answers = ask_oracle(model_folder(name), prompts, [16] * 3)
    outputs = PagedModel(model_folder(name), (1, 3)).generate(prompts, 16, chunk_tokens=5)
    total = sum(
        (compare(answer, output) for answer, output in zip(answers, outputs, strict=True)),
        start=compare(answers[0], outputs[0]),
    )
    assert total.is_exact
    assert total.share_compared > 0.5


@pytest.mark.parametrize("layers_of_stage", [(2, 2), (1, 1, 1, 1), (3, 1)])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2-sliding", "qwen3-moe"])
def test_stages_change_nothing(
    name: str, layers_of_stage: tuple[int, ...], model_folder: FolderOf
) -> None:
    """The same operations in the same order: equal to the last bit."""
    chunks = {0: random_tokens(11).tolist(), 1: random_tokens(1).tolist()}
    whole = PagedModel(model_folder(name), (4,)).forward(chunks)
    split = PagedModel(model_folder(name), layers_of_stage).forward(chunks)
    assert torch.equal(split, whole)


@pytest.mark.parametrize(
    ("layers_of_stage", "left"),
    [
        *(((n, 4 - n), (True, False)) for n in (1, 2, 3)),
        *(((1, n, 3 - n), left) for n in (1, 2) for left in CUTS_OF_THREE),
        ((2, 1, 1), (True, True, False)),
    ],
)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2-sliding", "qwen3-moe", "mixtral"])
def test_cuts_within_layers_change_nothing(
    name: str,
    layers_of_stage: tuple[int, ...],
    left: tuple[bool, ...],
    model_folder: FolderOf,
) -> None:
    """A stage begins with an MLP, ends with an attention, or both: equal to the last bit, a step of
    a prompt and one behind it. And every weight is one stage's."""
    folder = model_folder(name)
    whole = PagedModel(folder, (4,))
    cut = PagedModel(folder, layers_of_stage, mlp_left_by_stage=left)
    for chunks in (
        {0: random_tokens(11).tolist(), 1: random_tokens(1).tolist()},
        {0: [5], 1: random_tokens(6).tolist()},
    ):
        assert torch.equal(cut.forward(chunks), whole.forward(chunks))
    uncut = PagedModel(folder, layers_of_stage).stages
    assert sum(stage.weight_bytes for stage in cut.stages) == sum(s.weight_bytes for s in uncut)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3-bias", "mixtral", "qwen3-moe"])
def test_every_device_gives_the_same_logits(
    name: str, device: torch.device, dtype: torch.dtype, model_folder: FolderOf
) -> None:
    """PyTorch's path, chunk and decode, KV in the compute dtype."""
    folder, tokens = model_folder(name), random_tokens(20).tolist()
    exact = PagedModel(folder, (4,)).forward({0: tokens})
    model = PagedModel(
        folder, (2, 2), device=device, dtype=dtype, kv_dtype=dtype, uses_native=False
    )
    model.forward({0: tokens[:12], 1: tokens[:1]})
    model.forward({0: tokens[12:19]})
    logits = model.forward({0: tokens[19:], 1: tokens[1:2]})[:1].cpu()
    error = (logits - exact).abs().mean() / exact.abs().mean()
    assert error < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3-moe"])
def test_a_request_does_not_depend_on_its_neighbours(name: str, model_folder: FolderOf) -> None:
    tokens = random_tokens(19).tolist()
    alone = PagedModel(model_folder(name), (4,)).forward({0: tokens})
    crowd = {index: random_tokens(index + 1, seed=index).tolist() for index in range(1, 9)}
    together = PagedModel(model_folder(name), (4,)).forward({**crowd, 0: tokens})
    torch.testing.assert_close(together[-1:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("uses_native", [True, False], ids=["c", "torch"])
def test_narrow_kv_stays_near(
    kv_dtype: torch.dtype, uses_native: bool, model_folder: FolderOf
) -> None:
    """Storage loses bits, not meaning; both paths see the same stored values."""
    folder, tokens = model_folder("llama"), random_tokens(25).tolist()
    exact = PagedModel(folder, (4,)).forward({0: tokens})
    logits = []
    for native in (uses_native, False):
        model = PagedModel(folder, (4,), kv_dtype=kv_dtype, uses_native=native, num_slots=16)
        for kv in model.kv:
            kv.zero_()
        logits.append(model.forward({0: tokens[:20]}))
        logits[-1] = model.forward({0: tokens[20:]})
    error = (logits[0] - exact).abs().mean() / exact.abs().mean()
    assert error < (0.2 if kv_dtype == torch.float8_e4m3fn else 0.02)
    torch.testing.assert_close(logits[0], logits[1], atol=5e-2, rtol=0)


def test_bfloat16_weights_run_without_the_c_kernels(model_folder: FolderOf) -> None:
    folder, tokens = model_folder("qwen3"), random_tokens(12).tolist()
    exact = PagedModel(folder, (4,)).forward({0: tokens})
    model = PagedModel(folder, (4,), dtype=torch.bfloat16, kv_dtype=torch.bfloat16)
    assert model.stages[0]._native is None
    for kv in model.kv:
        kv.zero_()
    logits = model.forward({0: tokens})
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().mean() / exact.abs().mean() < 0.1


def test_only_sampled_rows_get_logits(model_folder: FolderOf) -> None:
    model = PagedModel(model_folder("llama"), (4,))
    both = model.forward({0: [5, 6, 7], 1: [8]})
    assert both.shape == (2, VOCAB_SIZE)


@pytest.mark.parametrize("name", ["llama-bias", "mixtral", "qwen3-moe-raw"])
def test_weight_bytes_count_each_stage_once(name: str, model_folder: FolderOf) -> None:
    """Untied: the stages' sum is the model's parameters."""
    stages = PagedModel(model_folder(name), (1, 3)).stages
    num_parameters = sum(parameter.numel() for parameter in build_oracle(name).parameters())
    assert sum(stage.weight_bytes for stage in stages) == 4 * num_parameters


class TestRefusals:
    def test_slots_beyond_the_device_tier(self, model_folder: FolderOf) -> None:
        model = PagedModel(model_folder("llama"), (4,), num_slots=8)
        batch = model.batch({0: [4] * 32})
        with pytest.raises(InvariantError, match="device tier has 2 slots"):
            model.stages[0].forward(torch.full((32,), 4), batch, model.kv[0][:2])

    def test_other_number_of_tokens(self, model_folder: FolderOf) -> None:
        model = PagedModel(model_folder("llama"), (4,))
        with pytest.raises(InvariantError, match="the batch has 3 tokens, its input has 2 rows"):
            model.stages[0].forward(torch.tensor([4, 4]), model.batch({0: [4] * 3}), model.kv[0])


def test_runs_on_a_padded_pool(model_folder: FolderOf) -> None:
    """Slots of a real device tier are padded to 4,096 bytes: the view is strided."""
    model = PagedModel(model_folder("llama"), (4,), device=CPU)
    expected = model.forward({0: list(range(3, 20))})
    padded = PagedModel(model_folder("llama"), (4,))
    shape = padded.kv[0].shape
    rows = torch.zeros(shape[0], 4096)
    view = rows[:, : shape[1:].numel()].view(shape)
    padded.kv[0] = view
    assert torch.equal(padded.forward({0: list(range(3, 20))}), expected)
