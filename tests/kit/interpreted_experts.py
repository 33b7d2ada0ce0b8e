"""The fused experts by Triton's own interpreter on the CPU, against PyTorch's. A program of its
own, since Triton decides when it is loaded whether it interprets:

    TRITON_INTERPRET=1 python -m kit.interpreted_experts
"""

from __future__ import annotations

import sys

import torch
from kit.expert_shapes import experts_config, silu_and_multiply
from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model.cuda.expert_blocks import plan_blocks
from pipemax_worker.stage.model.cuda.fused_experts import choose, mix_experts, sort_into_blocks
from pipemax_worker.stage.model.experts import ExpertMatrices, Experts
from pipemax_worker.stage.model.linear import Linear
from pipemax_worker.stage.model.random_weights import RandomWeights
from pipemax_worker.stage.model.torch_experts import mix_experts as mix_expert_by_expert

CPU = torch.device("cpu")
HIDDEN = 72
"""No tile divides it."""


def check_choose(num_experts: int, num_chosen: int, is_normed: bool) -> None:
    logits = 3 * torch.randn(7, num_experts, generator=torch.Generator().manual_seed(2))
    weights, chosen = choose(logits, num_chosen, is_normed=is_normed)
    expected, experts = torch.softmax(logits, -1).topk(num_chosen, -1)
    if is_normed:
        expected = expected / expected.sum(-1, keepdim=True)
    assert torch.equal(chosen.long(), experts)
    torch.testing.assert_close(weights, expected)
    _, stray = choose(torch.full((2, num_experts), torch.nan), num_chosen, is_normed=is_normed)
    assert stray.tolist() == 2 * [list(range(num_chosen))], "NaN leads out of bounds"


def check_sort(num_tokens: int, num_experts: int, num_chosen: int, is_skewed: bool) -> None:
    """Every pair once, in a block of its own expert; all choices the same is the worst skew."""
    generator = torch.Generator().manual_seed(num_tokens)
    scores = torch.rand(num_tokens, num_experts, generator=generator)
    if is_skewed:
        scores = scores[:1].expand(num_tokens, -1)
    chosen = scores.topk(num_chosen, -1).indices.to(torch.int32).contiguous()
    blocks = plan_blocks(chosen.numel(), num_experts)
    pairs, block_experts = sort_into_blocks(chosen, num_experts, blocks)
    flat, found = chosen.flatten(), []
    for block, expert in enumerate(block_experts.tolist()):
        own = pairs[block * blocks.rows : (block + 1) * blocks.rows]
        if expert == -1:
            continue
        own = own[own != chosen.numel()].tolist()
        assert own, "a block without pairs"
        assert all(flat[pair] == expert for pair in own)
        found += own
    expected = sorted(range(chosen.numel()), key=lambda pair: (int(flat[pair]), pair))
    assert found == expected


def stacked_experts(config: ModelConfig, dtype: torch.dtype) -> Experts:
    """As on a GPU: not packed one by one."""
    experts = Experts(config, RandomWeights(0, CPU, torch.float64), "layer.")
    experts.router._weight = experts.router._weight.to(dtype)
    for name in ("gate_up", "down"):
        matrices = getattr(experts, name)
        stacked = matrices.stacked.to(dtype)
        linears = [Linear(weight, None) for weight in stacked]
        setattr(experts, name, ExpertMatrices(linears, stacked))
    return experts


def check_mix(
    num_tokens: int, num_experts: int, num_chosen: int, dtype: torch.dtype, width: int = 40
) -> None:
    config = experts_config(num_experts, num_chosen, hidden=HIDDEN, width=width)
    experts = stacked_experts(config, dtype)
    shape = (2, num_tokens, HIDDEN)
    x, residual = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = mix_expert_by_expert(x, experts, residual.clone(), silu_and_multiply)
    if dtype == torch.float16:
        torch.testing.assert_close(mix_experts(x, experts, residual), expected, atol=0.02, rtol=0)
    else:
        torch.testing.assert_close(mix_experts(x, experts, residual), expected)


def main() -> int:
    for num_experts, num_chosen, sizes in (
        (8, 2, (1, 700)),
        (5, 3, (1, 40)),
        (128, 8, (20,)),
        (60, 1, (7,)),
    ):
        for is_normed in (True, False):
            check_choose(num_experts, num_chosen, is_normed)
        print(f"choice of {num_chosen} from {num_experts}: as PyTorch")
        for num_tokens in sizes:
            for is_skewed in {False, num_experts < 8}:
                check_sort(num_tokens, num_experts, num_chosen, is_skewed)
        print(f"blocks of {num_chosen} from {num_experts}: as sorted by Python")
    for num_tokens, num_experts, num_chosen in ((1, 8, 2), (9, 8, 2), (21, 5, 3), (90, 3, 2)):
        check_mix(num_tokens, num_experts, num_chosen, torch.float32)
    check_mix(9, 8, 2, torch.float16, width=64)
    print("mixtures: as PyTorch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
