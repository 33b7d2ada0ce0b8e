"""What tensor parallelism pays between the cards of one host. Pure.

A ring over N cards: an all-reduce of B bytes sends ``2 (N-1)/N B`` over each card's link, an
all-gather of B bytes in all ``(N-1)/N B``. Where cards cannot reach each other every byte goes
through the host's memory, written once and read once, so the bus is as fast as the slower of a
card's hop and half its share of the host's copy bandwidth. That gives 12 GB/s on a node of 4090s
and 14 on one of L20s, where 14.65 were measured (TD-Pipe, arXiv 2506.10470).
"""

from __future__ import annotations

import msgspec

from pipemax_worker.performance.node_profile import NodeProfile

# NCCL's own model of a ring with the simple protocol over PCIe (its src/graph/tuning.cc): so much
# for the operation, and for each of its 2 (N-1) steps.
_BASE_LATENCY_SECONDS = 8.4e-6
_STEP_LATENCY_SECONDS = 4.0e-6
_STEP_LATENCY_OF_PEERS_SECONDS = 1.5e-6


class Collectives(msgspec.Struct, frozen=True):
    """Among ``num_cards`` cards: the bus of each, and what one step of the ring takes at least."""

    num_cards: int
    bytes_per_second: float
    step_latency_seconds: float

    def all_reduce_seconds(self, num_bytes: float) -> float:
        """Every card adds up ``num_bytes`` of all of them."""
        return self._ring_seconds(2 * (self.num_cards - 1), num_bytes)

    def all_gather_seconds(self, num_bytes: float) -> float:
        """Every card gets all ``num_bytes``, of which it has an even part."""
        return self._ring_seconds(self.num_cards - 1, num_bytes)

    def _ring_seconds(self, num_steps: int, num_bytes: float) -> float:
        if num_steps == 0:
            return 0.0
        step_seconds = num_bytes / self.num_cards / self.bytes_per_second
        return _BASE_LATENCY_SECONDS + num_steps * (self.step_latency_seconds + step_seconds)


def derive_collectives(node: NodeProfile) -> Collectives:
    """Of all cards of ``node``."""
    link, num_cards = node.link, node.num_gpus
    if link.has_peer_access:
        return Collectives(num_cards, link.hop_bytes_per_second, _STEP_LATENCY_OF_PEERS_SECONDS)
    through_host = node.host.copy_bytes_per_second / num_cards / 2
    bandwidth = min(link.hop_bytes_per_second, through_host)
    return Collectives(num_cards, bandwidth, _STEP_LATENCY_SECONDS)
