"""Tokens on their way back to stage 0."""

import pytest
import zmq
from pipemax_worker.contract.messages import SampledToken
from pipemax_worker.errors import InvariantError
from pipemax_worker.stage.feedback import (
    FedBackTokens,
    FeedbackReceiver,
    FeedbackSender,
    fed_back,
)


@pytest.fixture
def link():
    context = zmq.Context()
    sender, receiver = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    sender.set_hwm(0)
    receiver.set_hwm(0)
    receiver.bind("inproc://feedback")
    sender.connect("inproc://feedback")
    yield FeedbackSender(sender), FeedbackReceiver(receiver)
    context.destroy(linger=0)


def tokens(sequence: int, **by_request: int) -> FedBackTokens:
    return FedBackTokens(
        sequence, tuple(int(name[1:]) for name in by_request), tuple(by_request.values())
    )


def test_a_token_is_that_of_the_requests_last_message(link) -> None:
    sender, receiver = link
    receiver.expect(0, [1, 2])
    sender.deliver(tokens(0, r1=11, r2=12))
    assert receiver.take(1) == 11
    receiver.expect(3, [1])
    sender.deliver(tokens(3, r1=31))
    assert receiver.take(1) == 31
    assert receiver.take(2) == 12


def test_take_waits_past_the_tokens_of_other_messages(link) -> None:
    sender, receiver = link
    for sequence, request_id in enumerate([5, 6, 7]):
        receiver.expect(sequence, [request_id])
    for sequence, request_id in enumerate([5, 6, 7]):
        sender.deliver(FedBackTokens(sequence, (request_id,), (sequence + 100,)))
    assert [receiver.take(request_id) for request_id in (7, 5, 6)] == [102, 100, 101]


def test_tokens_of_finished_requests_are_dropped(link) -> None:
    """The scheduler runs ahead: a token may arrive for a request that has ended meanwhile."""
    sender, receiver = link
    receiver.expect(0, [1, 2])
    receiver.forget([1])
    sender.deliver(tokens(0, r1=11, r2=12))
    assert receiver.take(2) == 12
    with pytest.raises(InvariantError, match="request 1: no message"):
        receiver.take(1)


def test_an_older_token_of_a_request_begun_anew_is_not_taken(link) -> None:
    """Preempted and recomputed: the token of the first life is not that of the second."""
    sender, receiver = link
    receiver.expect(0, [1])
    receiver.expect(4, [1])
    sender.deliver(tokens(0, r1=10))
    sender.deliver(tokens(4, r1=14))
    assert receiver.take(1) == 14


def test_the_queue_is_emptied_even_if_nobody_takes(link) -> None:
    sender, receiver = link
    for sequence in range(5000):
        receiver.expect(sequence, [1])
        sender.deliver(tokens(sequence, r1=sequence))
    receiver.expect(5000, [1])
    sender.deliver(tokens(5000, r1=7))
    assert receiver.take(1) == 7


def test_one_stage_feeds_itself() -> None:
    receiver = FeedbackReceiver(None)
    receiver.expect(0, [1])
    receiver.deliver(fed_back(0, [SampledToken(1, 42)]))
    assert receiver.take(1) == 42
    receiver.expect(1, [1])
    with pytest.raises(InvariantError, match="message 1 sampled no token"):
        receiver.take(1)
