import random
from itertools import pairwise

import msgspec
import pytest
from pipemax_worker.errors import InvariantError
from pipemax_worker.performance.batch_shape import BatchShape, count_prompt_pairs
from pipemax_worker.performance.correction import CorrectedEstimator
from pipemax_worker.performance.hardware import HardwareProfile
from pipemax_worker.performance.linear_cost import (
    LinearCoefficients,
    LinearCost,
    fit_linear,
    linearise,
)
from pipemax_worker.performance.node_profile import load_node_profile
from pipemax_worker.performance.step_cost import RooflineCost, StageCost, padded_tokens
from pipemax_worker.performance.step_table import GemmTable, TableCost

PROFILE = HardwareProfile("round", 1e12, 1e14, 1e10, 1e10, 1e9, 1e9, 0.0)
STAGE = StageCost(8_000_000_000, 4_000_000_000, 32_768)


def decode(num_requests: int, context: int = 0) -> BatchShape:
    return BatchShape(num_requests, num_requests * context, num_requests)


def test_pairs_are_counted_for_prompts_alone() -> None:
    assert count_prompt_pairs(500, 1) == 0
    assert count_prompt_pairs(0, 4) == 1 + 2 + 3 + 4
    assert count_prompt_pairs(10, 2) == 11 + 12


def test_rows_are_padded_to_whole_tiles_above_the_first() -> None:
    assert [padded_tokens(n, 128) for n in (1, 127, 128, 129, 256, 257)] == [
        1,
        127,
        128,
        256,
        256,
        384,
    ]
    assert padded_tokens(129, 0) == 129


def test_a_tile_step_stands_in_the_roofline() -> None:
    tiled = RooflineCost(msgspec.structs.replace(PROFILE, tile_tokens=128), [STAGE])
    assert tiled.stage_seconds(decode(129), 0) == tiled.stage_seconds(decode(256), 0)
    assert tiled.stage_seconds(decode(257), 0) > tiled.stage_seconds(decode(256), 0)


def test_the_head_sees_one_token_a_row() -> None:
    headed = msgspec.structs.replace(STAGE, num_head_parameters=1_000_000_000)
    cost = RooflineCost(PROFILE, [headed])
    prompt = cost.stage_seconds(BatchShape(2000, 0, 2), 0)
    assert prompt == pytest.approx((2000 * 4e9 + 2 * 1e9) * 2 / 1e14)


def test_attention_of_prompts_costs_arithmetic() -> None:
    wide = msgspec.structs.replace(STAGE, attention_width=8192 * 10)
    plain = RooflineCost(PROFILE, [wide]).stage_seconds(BatchShape(100, 0, 1), 0)
    pairs = RooflineCost(PROFILE, [wide]).stage_seconds(BatchShape(100, 0, 1, 1_000_000), 0)
    assert pairs - plain == pytest.approx(4 * 1_000_000 * 81920 / 1e14)


def test_a_table_gives_what_was_measured_and_scales_with_the_weights() -> None:
    table = GemmTable(1000, ((16, 1.0), (64, 1.0), (128, 2.0)))
    assert [table.seconds(n, 1000) for n in (1, 16, 40, 64, 96, 128)] == [1, 1, 1, 1, 1.5, 2]
    assert table.seconds(256, 1000) == 4.0
    assert table.seconds(64, 500) == 0.5


def test_a_table_never_falls_with_tokens() -> None:
    cost = load_node_profile("l20").step_cost([STAGE])
    seconds = [cost.stage_seconds(decode(n), 0) for n in range(1, 3000, 7)]
    assert all(low <= high + 1e-12 for low, high in pairwise(seconds))


def test_a_table_prices_the_head_by_rows() -> None:
    table = GemmTable(8_000_000_000, ((64, 0.01), (1024, 0.16)))
    headed = StageCost(8_000_000_000, 3_000_000_000, 0, num_head_parameters=1_000_000_000)
    cost = TableCost(PROFILE, table, [headed])
    expected = 0.75 * 0.16 + 0.25 * 0.01
    assert cost.stage_seconds(BatchShape(1024, 0, 8), 0) == pytest.approx(expected)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InvariantError, match="without points"):
        TableCost(PROFILE, GemmTable(1, ()), [STAGE])


def test_the_linear_form_is_found_again() -> None:
    generator = random.Random(0)
    truth = LinearCost([LinearCoefficients(2e-5, 3e-9, 1e-3)])
    shapes = [decode(generator.randint(1, 256), generator.randint(1, 2000)) for _ in range(20)]
    fitted = fit_linear([(shape, truth.stage_seconds(shape, 0)) for shape in shapes])
    assert fitted.alpha == pytest.approx(2e-5)
    assert fitted.beta == pytest.approx(3e-9)
    assert fitted.delta == pytest.approx(1e-3)


def test_too_few_samples_determine_nothing() -> None:
    with pytest.raises(InvariantError, match="2 samples"):
        fit_linear([(decode(1), 1.0), (decode(2), 2.0)])


def test_the_linear_form_misses_the_plateau_that_the_table_has() -> None:
    """Why the paper's form is only there to compare: on a measured table it is off by more."""
    table = load_node_profile("h200-24g").step_cost([STAGE])
    shapes = [decode(n, 800) for n in range(8, 257, 8)]
    linear = linearise(table, shapes)
    errors = [
        abs(linear.stage_seconds(shape, 0) / table.stage_seconds(shape, 0) - 1) for shape in shapes
    ]
    assert max(errors) > 0.05


def test_a_corrected_table_learns_a_slower_card() -> None:
    generator = random.Random(1)
    prior = load_node_profile("h200-24g").step_cost([STAGE, STAGE])
    estimator = CorrectedEstimator(prior)
    assert estimator.accuracy.share_within_5_percent == 1.0
    for _ in range(300):
        shape = decode(generator.randint(8, 200), generator.randint(100, 1500))
        for stage, factor in enumerate((1.3, 1.1)):
            estimator.observe(shape, stage, prior.stage_seconds(shape, stage) * factor)
    assert estimator.accuracy.share_within_5_percent == 1.0
    assert estimator.accuracy.worst_error_ratio < 0.01
    assert estimator.predict(decode(64, 800)) == pytest.approx(
        1.3 * prior.stage_seconds(decode(64, 800), 0), rel=0.01
    )


def test_accuracy_speaks_of_the_last_hundred() -> None:
    estimator = CorrectedEstimator(RooflineCost(PROFILE, [STAGE]))
    estimator.observe(decode(64), 0, 10.0)
    assert estimator.accuracy.share_within_5_percent == 0.0
    for _ in range(200):
        estimator.observe(decode(64), 0, 0.02)
    assert estimator.accuracy.share_within_5_percent > 0.9


def test_what_confirms_the_prior_counts_when_it_is_refuted() -> None:
    """Many exact steps weigh against the first that is not, in each bucket and in the error."""
    prior = RooflineCost(PROFILE, [STAGE])
    quick, slow = CorrectedEstimator(prior), CorrectedEstimator(prior)
    slow._is_prior_exact = False
    for estimator in (quick, slow):
        for num_tokens in (8, 16, 300, 8, 8):
            estimator.observe(decode(num_tokens), 0, prior.stage_seconds(decode(num_tokens), 0))
        assert estimator.predict(decode(8)) == prior.stage_seconds(decode(8), 0)
        estimator.observe(decode(8), 0, 3 * prior.stage_seconds(decode(8), 0))
    for num_tokens in (1, 8, 16, 300, 1000):
        assert quick.predict(decode(num_tokens)) == slow.predict(decode(num_tokens))
    assert quick.error_ratio == slow.error_ratio > 0
    assert quick.accuracy == slow.accuracy


def test_more_shapes_than_are_remembered_are_predicted_alike() -> None:
    prior = RooflineCost(PROFILE, [STAGE])
    estimator = CorrectedEstimator(prior)
    for num_tokens in (*range(1, 1200), *range(1, 50)):
        shape = decode(num_tokens)
        assert estimator.predict(shape) == prior.stage_seconds(shape, 0)
