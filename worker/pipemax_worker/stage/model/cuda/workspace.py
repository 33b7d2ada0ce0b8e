"""Memory that all steps of a stage share, at addresses that captured graphs know."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pipemax_worker.contract.model_config import ModelConfig
from pipemax_worker.stage.model.cuda.tiles import Int32s

CopyWords = Callable[[torch.Tensor, torch.Tensor, int], None]


@dataclass(frozen=True)
class Capacity:
    """What a workspace has room for.

    rows              of a step, padding included.
    words             of ``step_inputs``.
    partial_results   rows of attention before they are merged.
    """

    rows: int
    words: int
    partial_results: int

    def holds(self, other: Capacity) -> bool:
        return (
            self.rows >= other.rows
            and self.words >= other.words
            and self.partial_results >= other.partial_results
        )

    def grown_for(self, other: Capacity) -> Capacity:
        """With room to spare, so that it seldom grows."""
        if self.holds(other):
            return self
        return Capacity(
            max(self.rows, 2 * other.rows),
            max(self.words, 2 * other.words),
            max(self.partial_results, other.partial_results),
        )


FIRST_CAPACITY = Capacity(rows=2048, words=1 << 16, partial_results=4096)


class Workspace:
    """On the device:

    words             what ``step_inputs`` describes, of the step that runs. int32
    partial_results   of attention before they are merged: results, then their scores. uint8; one
                      tensor for decoding rows and one for prompts, which run side by side.
    row_numbers       0, 1, 2, ...: every new token is a request of its own to the append kernel.
    ones              as many ones.
    entering, leaving   hidden states of the step that runs. [rows, hidden]
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: Capacity,
        device: torch.device,
        dtype: torch.dtype,
        copy_words: CopyWords | None = None,
    ) -> None:
        """``copy_words``: (target, source, number of words); None: as PyTorch copies."""
        self.capacity = capacity
        self.words = torch.zeros(capacity.words, dtype=torch.int32, device=device)
        heads = capacity.partial_results * config.num_attention_heads
        self.scores_offset_bytes = heads * config.head_dim * dtype.itemsize
        num_bytes = self.scores_offset_bytes + 4 * heads
        self.partial_results = torch.empty(2, num_bytes, dtype=torch.uint8, device=device)
        self.row_numbers = torch.arange(capacity.rows + 1, dtype=torch.int32, device=device)
        self.ones = torch.ones(capacity.rows, dtype=torch.int32, device=device)
        hidden = (capacity.rows, config.hidden_size)
        self.entering = torch.zeros(hidden, dtype=dtype, device=device)
        self.leaving = torch.zeros(hidden, dtype=dtype, device=device)
        self.branch = Branch(device)
        self._staging = _Staging(capacity.words, device, copy_words)

    def begin_words(self) -> Int32s:
        """Where the host writes the next step's words, once those of the step before have left."""
        return self._staging.begin()

    def send_words(self, num_words: int) -> None:
        """Copy the first ``num_words`` that were written, behind what was launched before."""
        self._staging.send(self.words, num_words)


class Branch:
    """A second stream for launches that may run beside those that follow, until they are joined.

    Captured, the two become branches of one graph. On a CPU all is in order anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._is_forked = False
        if device.type == "cuda":
            # What starts first must not wait for the thread blocks of what starts beside it.
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def beside(self, is_wanted: bool) -> Iterator[None]:
        """Launches go to the second stream, behind those before, if that is wanted."""
        if self._stream is None or not is_wanted:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._is_forked = True
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Launches that follow come after those of the branch, if there are any."""
        if self._stream is not None and self._is_forked:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            self._is_forked = False


class _Staging:
    """Words on the host, pinned for a GPU."""

    def __init__(self, num_words: int, device: torch.device, copy_words: CopyWords | None) -> None:
        self._copy_words = copy_words
        is_gpu = device.type == "cuda"
        self._tensor = torch.zeros(num_words, dtype=torch.int32, pin_memory=is_gpu)
        self._words: Int32s = self._tensor.numpy()
        self._sent: torch.cuda.Event | None = None
        if is_gpu:
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def begin(self) -> Int32s:
        if self._sent is not None:
            self._sent.synchronize()
        return self._words

    def send(self, target: torch.Tensor, num_words: int) -> None:
        if self._copy_words is not None:
            self._copy_words(target, self._tensor, num_words)
        else:
            target[:num_words].copy_(self._tensor[:num_words], non_blocking=True)
        if self._sent is not None:
            self._sent.record()
