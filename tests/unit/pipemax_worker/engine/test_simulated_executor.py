"""The judge is judged: a broken driver must be caught by the simulated pipeline."""

import pytest
from kit.engine import Harness, make_config, make_geometry, make_request
from kit.executor import SimulatedExecutor
from kit.prefix_model import next_token, prefix_hashes, reference_output
from pipemax_worker.contract.geometry import Tier
from pipemax_worker.contract.messages import NewRequest, ScheduledRequest, StageInput, StepOutput
from pipemax_worker.contract.request import SamplingParams
from pipemax_worker.contract.transfers import CopyJob, pack_int32
from pipemax_worker.engine.residency import Residency

SAMPLING = SamplingParams(max_tokens=4)


def new_request(token_ids: list[int]) -> NewRequest:
    return NewRequest(0, pack_int32(token_ids), b"", SAMPLING, 0)


def row(start: int, token_ids: list[int], slots: list[int], *, sample: bool) -> ScheduledRequest:
    return ScheduledRequest(
        0, start, len(token_ids), pack_int32(token_ids), pack_int32(slots), sample
    )


def run(executor: SimulatedExecutor, *messages: StageInput) -> list[StepOutput]:
    outputs: list[StepOutput] = []
    for message in messages:
        executor.submit(message)
        events = executor.collect(0.0)
        outputs += [event for event in events if isinstance(event, StepOutput)]
    return outputs


def test_tokens_are_a_function_of_their_prefix() -> None:
    executor = SimulatedExecutor(2, 4, eager=True)
    first = StageInput(0, 0, (row(0, [1, 2], [3], sample=False),), (new_request([1, 2, 5]),))
    second = StageInput(1, 0, (row(2, [5], [3], sample=True),))
    output = run(executor, first, second)[-1]
    expected = next_token(prefix_hashes([1, 2, 5])[-1], executor.vocab_size, 0.0)
    assert output.sampled[0].token_id == expected
    assert reference_output([1, 2, 5], SAMPLING, executor.vocab_size, 0.0)[0] == expected


def test_kv_in_the_wrong_slot_is_caught() -> None:
    executor = SimulatedExecutor(2, 4, eager=True)
    first = StageInput(0, 0, (row(0, [1, 2], [3], sample=False),), (new_request([1, 2, 5]),))
    second = StageInput(1, 0, (row(2, [5], [4], sample=True),))
    with pytest.raises(AssertionError, match="device slot 4 does not hold positions 0"):
        run(executor, first, second)


def test_wrong_tokens_are_caught() -> None:
    executor = SimulatedExecutor(1, 4, eager=True)
    message = StageInput(0, 0, (row(0, [1, 9], [3], sample=True),), (new_request([1, 2]),))
    with pytest.raises(AssertionError, match="wrong tokens"):
        run(executor, message)


def test_a_prefetch_over_its_own_micro_batch_is_caught() -> None:
    executor = SimulatedExecutor(1, 4, eager=True)
    load = CopyJob(0, Tier.HOST, Tier.DEVICE, pack_int32([0]), pack_int32([3]))
    rows = (row(0, [1, 2], [3], sample=True),)
    with pytest.raises(AssertionError, match="overwrites slots"):
        run(executor, StageInput(0, 0, rows, (new_request([1, 2]),), prefetch=(load,)))


def test_a_gap_in_the_sequence_is_caught() -> None:
    with pytest.raises(AssertionError, match="gap"):
        SimulatedExecutor(1, 4).submit(StageInput(1, 0))


def test_a_scheduler_that_forgets_a_load_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots cached over a rotation: the bug that ``packed_slots`` could have."""
    monkeypatch.setattr(Residency, "_refresh", lambda self, state: None)
    harness = Harness(make_config(make_geometry(device=10, host=60, num_stages=2)), seed=1)
    requests = [make_request(offset, range(offset + 1, offset + 20), 10) for offset in range(6)]
    with pytest.raises(Exception):  # noqa: B017, PT011 - a wrong read or a broken invariant
        harness.run(requests, max_steps=500)


@pytest.mark.parametrize("eager", [True, False])
def test_stages_store_and_load_what_they_hold(eager: bool) -> None:
    executor = SimulatedExecutor(2, 2, eager=eager)
    store = CopyJob(0, Tier.DEVICE, Tier.HOST, pack_int32([3]), pack_int32([7]))
    load = CopyJob(1, Tier.HOST, Tier.DEVICE, pack_int32([7]), pack_int32([5]))
    first = StageInput(
        0, 0, (row(0, [1, 2], [3], sample=False),), (new_request([1, 2, 3]),), stores_after=(store,)
    )
    executor.submit(first)
    reports = []
    while len(reports) < 2:
        events = executor.collect(0.0)
        reports += [copy for event in events for copy in getattr(event, "copies", ())]
    outputs = run(
        executor,
        StageInput(1, 0, prefetch=(load,)),
        StageInput(2, 0, (row(2, [3], [5, 6], sample=True),)),
    )
    while not outputs:
        outputs = [event for event in executor.collect(0.0) if isinstance(event, StepOutput)]
    assert len(outputs[0].sampled) == 1
