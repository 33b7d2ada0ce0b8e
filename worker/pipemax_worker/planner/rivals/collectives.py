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


class Protocol(msgspec.Struct, frozen=True):
    """How a ring hands its pieces on: seconds for the operation and for each step, and the share of
    the bus that carries data."""

    base_seconds: float
    step_seconds: float
    bandwidth_share: float


# Latencies of NCCL's own model of rings (2.18-2.27, its tuning.cc): "simple" over PCIe and over
# NVLink; "LL", which sends a flag with every four bytes, and so half as much data.
_SIMPLE, _LOW_LATENCY = Protocol(8.4e-6, 5.7e-6, 1.0), Protocol(6.6e-6, 1.0e-6, 0.5)
_SIMPLE_PEERS, _LOW_LATENCY_PEERS = Protocol(8.4e-6, 3.4e-6, 1.0), Protocol(6.6e-6, 0.6e-6, 0.5)


class Collectives(msgspec.Struct, frozen=True):
    """Among ``num_cards`` cards: the bus of each, and protocols of which the faster is taken."""

    num_cards: int
    bytes_per_second: float
    protocols: tuple[Protocol, ...] = (_SIMPLE, _LOW_LATENCY)

    def all_reduce_seconds(self, num_bytes: float) -> float:
        """Every card adds up ``num_bytes`` of all of them."""
        return self._ring_seconds(2 * (self.num_cards - 1), num_bytes)

    def all_gather_seconds(self, num_bytes: float) -> float:
        """Every card gets all ``num_bytes``, of which it has an even part."""
        return self._ring_seconds(self.num_cards - 1, num_bytes)

    def _ring_seconds(self, num_steps: int, num_bytes: float) -> float:
        if num_steps == 0:
            return 0.0
        piece_seconds = num_bytes / self.num_cards / self.bytes_per_second
        return min(
            one.base_seconds + num_steps * (one.step_seconds + piece_seconds / one.bandwidth_share)
            for one in self.protocols
        )


def derive_collectives(node: NodeProfile) -> Collectives:
    """Of all cards of ``node``."""
    link, num_cards = node.link, node.num_gpus
    if link.has_peer_access:
        protocols = (_SIMPLE_PEERS, _LOW_LATENCY_PEERS)
        return Collectives(num_cards, link.hop_bytes_per_second, protocols)
    through_host = node.host.copy_bytes_per_second / num_cards / 2
    return Collectives(num_cards, min(link.hop_bytes_per_second, through_host))
