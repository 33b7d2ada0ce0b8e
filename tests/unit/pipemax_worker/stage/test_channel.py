"""Hidden states between stages, bit for bit."""

from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch
import zmq
from kit.pipeline_driver import make_configs, make_settings
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.channel import HIDDEN_LINK_DEPTH, ZmqChannel

HIDDEN_SIZE = 24

MakeChannels = Callable[[str], tuple[ZmqChannel, ZmqChannel]]


@pytest.fixture
def make_channels() -> Iterator[MakeChannels]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[ZmqChannel] = []

    def make(dtype: str) -> tuple[ZmqChannel, ZmqChannel]:
        first, last = make_configs(make_settings(2))
        link = "inproc://hidden"
        first = msgspec.structs.replace(first, dtype=dtype, hidden_out_address=link)
        last = msgspec.structs.replace(last, dtype=dtype, hidden_in_address=link)
        receiver = ZmqChannel(context, last, HIDDEN_SIZE)
        made.extend([ZmqChannel(context, first, HIDDEN_SIZE), receiver])
        return made[0], made[1]

    yield make
    for channel in made:
        channel.close()
    context.destroy(linger=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("num_tokens", [1, 3, 2048])
def test_hidden_states_arrive_unchanged(
    make_channels: MakeChannels, dtype: str, num_tokens: int
) -> None:
    sender, receiver = make_channels(dtype)
    hidden = torch.randn(num_tokens, HIDDEN_SIZE).to(getattr(torch, dtype))
    sender.send(hidden, 5)
    arrived = receiver.receive(num_tokens, 5)
    assert arrived.dtype == hidden.dtype
    assert torch.equal(arrived, hidden)
    assert arrived.data_ptr() % 64 == 0


def test_messages_keep_their_order_and_a_view_is_sent_as_it_looks(
    make_channels: MakeChannels,
) -> None:
    sender, receiver = make_channels("float32")
    wide = torch.randn(4, 2 * HIDDEN_SIZE)
    for sequence in range(2 * HIDDEN_LINK_DEPTH):
        sender.send(wide[:, sequence : sequence + HIDDEN_SIZE], sequence)
    for sequence in range(2 * HIDDEN_LINK_DEPTH):
        expected = wide[:, sequence : sequence + HIDDEN_SIZE]
        assert torch.equal(receiver.receive(4, sequence), expected)


@pytest.mark.parametrize(("num_tokens", "sequence"), [(4, 8), (5, 7)])
def test_stages_out_of_step_are_found(
    make_channels: MakeChannels, num_tokens: int, sequence: int
) -> None:
    sender, receiver = make_channels("float32")
    sender.send(torch.zeros(4, HIDDEN_SIZE), 7)
    with pytest.raises(InvariantError, match=r"message 7 \(384 bytes\) arrived where message"):
        receiver.receive(num_tokens, sequence)
