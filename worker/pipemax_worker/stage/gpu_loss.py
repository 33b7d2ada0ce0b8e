"""Which of CUDA's errors say that the GPU itself has failed.

Only what can mean nothing else: an illegal address or a failed launch may as well be a kernel's
bug, and a line that provokes it is found by halving. There the driver asks ``nvidia-smi``.
"""

from __future__ import annotations

LOSS_CODES = frozenset({214, 220, 226})
"""cudaErrorECCUncorrectable, cudaErrorNvlinkUncorrectable, cudaErrorContained (an uncorrectable
memory error): the card is not to be trusted before it is reset."""

LOSS_WORDS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "gpu is lost",
    "fallen off the bus",
)


def is_gpu_loss(error: BaseException) -> bool:
    """By the error's code, as ``torch.AcceleratorError`` has it, or by CUDA's own words."""
    if getattr(error, "error_code", None) in LOSS_CODES:
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in LOSS_WORDS
    )
