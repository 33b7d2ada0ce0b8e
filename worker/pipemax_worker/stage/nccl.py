"""Hidden states from card to card with NCCL."""

from __future__ import annotations

from collections import deque

import torch
import torch.distributed as dist

from pipemax_worker.contract.messages import StageConfig
from pipemax_worker.stage.channel import HIDDEN_LINK_DEPTH


class NcclChannel:
    """Sends to the next rank and receives from the one before; a stage's rank is its number.

    Each pair of neighbours has a communicator, and so a CUDA stream, of its own: a send that waits
    for its receiver does not hold up the next receive. A sent tensor is kept until NCCL is done
    with it. NCCL keeps the order of a link, so no sequence number travels. Cards without
    peer-to-peer need no setting here: NCCL goes through shared host memory by itself.
    """

    def __init__(self, config: StageConfig, hidden_size: int) -> None:
        self._stage, self._num_stages = config.stage, config.num_stages
        self._dtype = getattr(torch, config.dtype)
        self._device = torch.device(config.device)
        self._hidden_size = hidden_size
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()
        dist.init_process_group(
            "nccl", init_method=config.rendezvous, rank=config.stage, world_size=config.num_stages
        )
        self._connect_neighbours()

    def send(self, hidden: torch.Tensor, sequence: int) -> None:
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()
        if len(self._sent) >= HIDDEN_LINK_DEPTH:
            self._sent.popleft()[0].wait()
        hidden = hidden.contiguous()
        work = dist.isend(hidden, self._stage + 1)
        assert work is not None
        self._sent.append((work, hidden))

    def has_arrived(self) -> bool:
        return True  # the device waits

    def receive(self, num_tokens: int, sequence: int) -> torch.Tensor:
        hidden = torch.empty(num_tokens, self._hidden_size, dtype=self._dtype, device=self._device)
        work = dist.irecv(hidden, self._stage - 1)
        assert work is not None
        work.wait()  # the current stream's work waits, the host does not
        return hidden

    def close(self) -> None:
        while self._sent:
            self._sent.popleft()[0].wait()
        torch.cuda.synchronize(self._device)
        dist.destroy_process_group()

    def _connect_neighbours(self) -> None:
        """NCCL connects a pair at its first use, by both ends: do it now, down the chain."""
        if self._stage > 0:
            self.receive(1, -1)
            torch.cuda.synchronize(self._device)
        if self._stage < self._num_stages - 1:
            hello = torch.zeros(1, self._hidden_size, dtype=self._dtype, device=self._device)
            self.send(hello, -1)
            torch.cuda.synchronize(self._device)
