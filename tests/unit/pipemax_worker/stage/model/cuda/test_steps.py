"""Whole steps through FlashInfer's tables, by an emulator of its kernels, against PyTorch's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.flashinfer_emulator import emulated_flashinfer
from kit.models import save_model
from kit.paged_model import CPU, PagedModel
from pipemax_worker.contract.messages import ScheduledRequest
from pipemax_worker.contract.transfers import pack_int32
from pipemax_worker.stage.batch import build_batch
from pipemax_worker.stage.model.cuda.gemm_table import GemmTable
from pipemax_worker.stage.model.cuda.step_plan import MAX_GRAPH_PROMPTS
from pipemax_worker.stage.model.cuda.steps import CudaSteps
from pipemax_worker.stage.model.cuda.trial import passes_trial
from pipemax_worker.stage.model.cuda.workspace import Capacity
from pipemax_worker.stage.model.experts import Experts

Chunks = dict[int, list[int]]


@pytest.fixture(scope="module", params=["llama", "qwen3", "llama-bias", "qwen3-moe"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def paged_model(
    folder: Path, layers: tuple[int, ...] = (2, 2), left: tuple[bool, ...] = ()
) -> PagedModel:
    return PagedModel(folder, layers, uses_native=False, num_slots=400, mlp_left_by_stage=left)


def emulated(
    folder: Path, layers: tuple[int, ...] = (2, 2), left: tuple[bool, ...] = ()
) -> PagedModel:
    """The same model, whose stages run their steps as on a GPU."""
    model = paged_model(folder, layers, left)
    for index, stage in enumerate(model.stages):
        stage._cuda = steps_of(model, index)
    return model


def steps_of(model: PagedModel, stage: int) -> CudaSteps:
    return CudaSteps(
        model.config,
        emulated_flashinfer(),
        model.stages[stage]._rope,
        CPU,
        torch.float32,
        is_first=stage == 0,
        is_last=stage == len(model.stages) - 1,
        uses_graphs=False,
    )


def tokens(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 96, (count,), generator=generator).tolist()


def assert_same(folder: Path, steps: list[Chunks]) -> None:
    ours, theirs = emulated(folder), paged_model(folder)
    for chunks in steps:
        torch.testing.assert_close(
            ours.forward(chunks), theirs.forward(chunks), rtol=2e-3, atol=2e-3
        )
    for mine, reference in zip(ours.kv, theirs.kv, strict=True):
        torch.testing.assert_close(mine[:-1], reference[:-1], rtol=1e-3, atol=1e-3)


def test_prompts_then_decoding_with_a_prompt_beside(folder: Path) -> None:
    first = {0: tokens(30), 1: tokens(9, 1), 2: tokens(1, 2)}
    assert_same(
        folder,
        [first, {0: [5], 1: [6], 2: [7]}, {0: [8], 1: [9], 2: [1], 3: tokens(21, 3)}, {3: [4]}],
    )


def test_a_chunk_of_one_token_behind_a_longer_one(folder: Path) -> None:
    assert_same(folder, [{0: tokens(12)}, {0: [3], 1: tokens(5, 1), 2: tokens(1, 2)}])


def test_more_prompts_than_a_graph_has_room_for(folder: Path) -> None:
    """Then the step is not padded."""
    assert_same(folder, [{n: tokens(2 + n % 3, n) for n in range(MAX_GRAPH_PROMPTS + 2)}])


def test_contexts_of_several_chunks(folder: Path) -> None:
    prompt = {0: tokens(250), 1: tokens(200, 1)}
    model = emulated(folder)
    for stage in model.stages:
        assert stage._cuda is not None
        stage._cuda._chunk_tokens = 64
    reference = paged_model(folder)
    for chunks in (prompt, {0: [5], 1: [7]}, {0: [1], 1: tokens(20, 2)}):
        torch.testing.assert_close(
            model.forward(chunks), reference.forward(chunks), rtol=2e-3, atol=2e-3
        )


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=4))
def test_any_steps(folder: Path, sizes: list[list[int]]) -> None:
    steps = [
        {n: tokens(size, 7 * n + k) for n, size in enumerate(step) if size}
        for k, step in enumerate(sizes)
    ]
    assert_same(folder, [step for step in steps if step])


def test_steps_padded_to_fast_row_counts(folder: Path) -> None:
    """Further rows, before the prompts' or, without decoding rows, behind them."""
    table = GemmTable((8, 16, 40), {"all": {"cublas": (3.0, 2.0, 1.0), "cublaslt": (9.0,) * 3}})
    ours, theirs = emulated(folder), paged_model(folder)
    for stage in ours.stages:
        assert stage._cuda is not None
        stage._cuda.gemm_table = table
    for chunks in ({0: tokens(5), 1: tokens(9, 1)}, {0: [5], 1: [6]}, {0: [1], 2: tokens(3, 2)}):
        torch.testing.assert_close(
            ours.forward(chunks), theirs.forward(chunks), rtol=2e-3, atol=2e-3
        )


def test_stages_cut_within_layers(folder: Path) -> None:
    """The same steps, to the last bit."""
    ours = emulated(folder, (2, 1, 1), (True, True, False))
    whole = emulated(folder, (2, 1, 1))
    for chunks in ({0: tokens(9), 1: tokens(1, 1)}, {0: [5], 1: [6], 2: tokens(4, 2)}, {2: [7]}):
        assert torch.equal(ours.forward(chunks), whole.forward(chunks))


def test_a_step_that_samples_nothing(folder: Path) -> None:
    model = emulated(folder, (4,))
    row = ScheduledRequest(0, 0, 5, None, pack_int32([1, 2]), False)
    batch = build_batch([row], model.block_tokens, CPU)
    leaving = model.stages[0].forward(torch.tensor(tokens(5)), batch, model.kv[0])
    assert leaving.shape == (0, model.config.vocab_size)


def test_room_grows_with_the_steps(folder: Path) -> None:
    model, reference = emulated(folder, (4,)), paged_model(folder, (4,))
    steps = model.stages[0]._cuda
    assert steps is not None
    steps._allocate(Capacity(rows=8, words=64, partial_results=4))
    for chunks in ({0: tokens(5)}, {0: [1], 1: tokens(40, 1)}, {0: [2], 1: [3]}):
        torch.testing.assert_close(
            model.forward(chunks), reference.forward(chunks), rtol=2e-3, atol=2e-3
        )


class TestTrial:
    def test_right_kernels_pass(self, folder: Path) -> None:
        model = paged_model(folder)
        dtypes = (torch.float32, torch.float32)
        assert passes_trial(steps_of(model, 0), model.config, CPU, *dtypes)

    def test_wrong_ones_do_not(
        self, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = paged_model(folder)
        steps = steps_of(model, 0)
        monkeypatch.setattr("pipemax_worker.stage.model.cuda.kernels.CAUSAL", 0)
        assert not passes_trial(steps, model.config, CPU, torch.float32, torch.float32)
        assert "kernels gave wrong results in a trial" in caplog.text

    def test_wrong_experts_do_not(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = paged_model(save_model(tmp_path, "qwen3-moe"))
        steps = steps_of(model, 0)

        def lose_the_last(
            x: torch.Tensor, experts: Experts, residual: torch.Tensor
        ) -> torch.Tensor:
            mixed = emulated_flashinfer().mix_experts(x, experts, residual)
            return torch.cat((mixed[:-1], residual[-1:]))

        steps._library = replace(steps._library, mix_experts=lose_the_last)
        assert not passes_trial(steps, model.config, CPU, torch.float32, torch.float32)
        assert "kernels gave wrong results in a trial" in caplog.text
