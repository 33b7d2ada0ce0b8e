"""The fused experts compiled for a GPU that is not there: what no interpreter sees. A program of
its own, for Triton's compiler keeps much memory:

    python -m kit.compiled_experts 89
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from pipemax_worker.stage.model.cuda import fused_experts
from pipemax_worker.stage.model.cuda.expert_blocks import plan_blocks
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""Most that a thread block may have, by compute capability."""

TABLES = {
    "sorted_pairs": "*i32",
    "block_experts": "*i32",
    "num_pairs": "i32",
    "num_blocks": "i32",
}
SMALL_KERNELS: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, Any]]] = {
    "_choose": (
        {"weights": "*fp32", "chosen": "*i32", "logits": "*fp32"},
        {"num_experts": 60, "num_chosen": 6, "padded_experts": 64, "padded_chosen": 8,
         "is_normed": True},
        {"num_warps": 1},
    ),
    "_sort_into_blocks": (
        {**TABLES, "chosen": "*i32"},
        {"num_experts": 8, "num_bins": 32, "rows": 16, "at_a_time": 1024},
        {},
    ),
    "_add_weighted": (
        {"residual": "*bf16", "products": "*bf16", "weights": "*fp32"},
        {"width": 4096, "num_chosen": 2, "num_columns": 1024},
        {},
    ),
}  # fmt: skip


def compile_kernel(
    name: str, types: dict[str, str], constants: dict[str, Any], capability: int, **options: Any
) -> Any:
    kernel = getattr(fused_experts, name)
    signature = {argument: types.get(argument, "constexpr") for argument in kernel.arg_names}
    place = kernel.arg_names.index
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        kernel,
        signature,
        {(place(argument),): value for argument, value in constants.items()},
        {(place(argument),): aligned for argument, type_ in types.items() if type_[0] == "*"},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def check_product(num_pairs: int, is_gated: bool, capability: int) -> None:
    """Mixtral's shape: by tensor cores, copied ahead, within the memory of a thread block."""
    blocks = plan_blocks(num_pairs, 8)
    width, hidden = 14336, 4096
    compiled = compile_kernel(
        "_multiply_blocks",
        {**TABLES, "out": "*bf16", "x": "*bf16", "weights": "*bf16"},
        {
            "num_in": hidden if is_gated else width,
            "num_out": width if is_gated else hidden,
            "pairs_of_row": 2 if is_gated else 1,
            "is_gated": is_gated,
            "rows": blocks.rows,
            "columns": blocks.columns,
            "depth": blocks.depth,
        },
        capability,
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
    )
    assembly = compiled.asm["ptx"]
    assert "mma" in assembly, "no tensor cores"
    assert "cp.async" in assembly, "weights are not copied ahead"
    assert compiled.metadata.shared <= SHARED_BYTES[capability], compiled.metadata.shared
    shared = compiled.metadata.shared >> 10
    print(f"{blocks.rows} rows, gated {is_gated}: compiled, {shared} KiB shared", flush=True)


def main(capability: int) -> int:
    for name, (types, constants, options) in SMALL_KERNELS.items():
        compile_kernel(name, types, constants, capability, **options)
        print(f"{name}: compiled", flush=True)
    for num_pairs, is_gated in ((64, True), (64, False), (4096, True)):
        check_product(num_pairs, is_gated, capability)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
