import random

import pytest
from pipemax_worker.engine.kv_forecast import KVForecast
from pipemax_worker.engine.output_lengths import OutputLengths


def make(expected_output_tokens: int = 16) -> KVForecast:
    return KVForecast(num_micro_batches=2, block_tokens=4, expected_output_tokens=16)


def turn(forecast: KVForecast, num_rounds: int) -> None:
    for _ in range(2 * num_rounds):
        forecast.note_turn()


def exact_peak(requests: list[tuple[int, int]]) -> int:
    """By definition: at each future round, who has not ended holds its tokens and one a round."""
    longest = max((expected for _, expected in requests), default=0)
    return max(
        (
            sum(tokens + rounds for tokens, expected in requests if expected >= rounds)
            for rounds in range(longest + 1)
        ),
        default=0,
    )


def test_nobody_holds_nothing() -> None:
    assert make().peak_tokens(()) == 0


def test_one_request_peaks_at_its_end() -> None:
    assert make().peak_tokens([(100, 50)]) == pytest.approx(150 + 2, abs=2)


def test_the_young_take_the_room_of_the_old() -> None:
    """Two that overlap need less than both whole: 110 at the first one's end, 90 later."""
    forecast = make()
    forecast.add(1, 60, 10)
    forecast.add(2, 30, 50)
    assert forecast.peak_tokens(()) == pytest.approx(70 + 40 + 4, abs=3)


def test_time_brings_the_peak_nearer_not_lower() -> None:
    forecast = make()
    forecast.add(1, 60, 40)
    before = forecast.peak_tokens(())
    turn(forecast, 20)
    assert forecast.peak_tokens(()) == pytest.approx(before, abs=1)


def test_who_outlives_its_prediction_goes_on() -> None:
    forecast = make()
    forecast.add(1, 60, 10)
    turn(forecast, 30)
    assert forecast.peak_tokens((), excess_tokens=8) == pytest.approx(60 + 38 + 2, abs=2)


def test_removing_leaves_nothing_behind() -> None:
    forecast = make()
    for request_id in range(5):
        forecast.add(request_id, 10 * request_id, 7 * request_id)
    turn(forecast, 9)
    forecast.peak_tokens((), excess_tokens=3)
    for request_id in range(6):
        forecast.remove(request_id)
    assert forecast.peak_tokens(()) == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_peak_is_that_of_its_definition(seed: int) -> None:
    generator = random.Random(seed)
    requests = [(generator.randint(1, 300), generator.randint(1, 200)) for _ in range(30)]
    forecast = make()
    for request_id, (tokens, expected) in enumerate(requests[:20]):
        forecast.add(request_id, tokens, expected)
    slack = 2 * len(requests)
    assert abs(forecast.peak_tokens(requests[20:]) - exact_peak(requests)) <= slack + 30


def test_lengths_begin_with_what_is_configured() -> None:
    lengths = OutputLengths(100)
    assert lengths.expected_tokens(1000) == 100
    assert lengths.expected_tokens(30) == 30


def test_texts_that_run_to_their_limits_are_known_by_them() -> None:
    generator = random.Random(0)
    lengths = OutputLengths(100)
    for _ in range(50):
        limit = generator.randint(10, 2000)
        lengths.note_finished(limit, limit)
    assert lengths.expected_tokens(1234) == pytest.approx(1234)


def test_texts_that_end_by_themselves_are_known_by_their_mean() -> None:
    generator = random.Random(0)
    lengths = OutputLengths(100)
    for _ in range(300):
        lengths.note_finished(generator.randint(190, 210), generator.choice([500, 4000]))
    assert lengths.expected_tokens(4000) == pytest.approx(200, rel=0.05)


def bucket_peak(requests: list[tuple[int, int, int]]) -> int:
    """By definition, with ends rounded to the middle of their buckets of one round."""
    ends = [(tokens + 2 - begin, begin + expected + 0.5) for tokens, expected, begin in requests]
    return max(int(sum(base + end for base, other in ends if other >= end)) for _, end in ends)


@pytest.mark.parametrize("spread", [1, 40])
def test_empty_buckets_between_make_no_difference(spread: int) -> None:
    """Whether ends lie close together or far apart."""
    forecast = make()
    requests: list[tuple[int, int, int]] = []
    for number in range(12):
        tokens, expected = 10 + 3 * number, 20 + spread * (7 * number % 12)
        forecast.add(number, tokens, expected)
        requests.append((tokens, expected, number))
        turn(forecast, 1)
    later = (50, 20 * spread)
    expected_peak = bucket_peak([*requests, (*later, 12)])
    assert forecast.peak_tokens([later]) == expected_peak
