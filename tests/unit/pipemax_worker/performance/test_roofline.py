import math
import random

import pytest
from pipemax_worker.performance.batch_shape import BatchShape
from pipemax_worker.performance.hardware import CPU_PROFILE, GPU_PROFILE, HardwareProfile
from pipemax_worker.performance.roofline import RooflineEstimator, StageCost

PROFILE = HardwareProfile(
    name="round numbers",
    memory_bandwidth_bytes_per_second=1e12,
    flops_per_second=1e14,
    host_to_device_bytes_per_second=1e10,
    device_to_host_bytes_per_second=1e10,
    host_to_nvme_bytes_per_second=1e9,
    nvme_to_host_bytes_per_second=1e9,
    step_overhead_seconds=1e-3,
)
STAGE = StageCost(
    weight_bytes=8_000_000_000, num_parameters=4_000_000_000, kv_bytes_per_token=32_768
)


def test_a_small_step_costs_the_weights_and_the_overhead() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    assert estimator.predict(BatchShape(1, 0, 1)) == pytest.approx(8e-3 + 1e-3)
    assert estimator.predict(BatchShape(90, 0, 90)) == pytest.approx(8e-3 + 1e-3)


def test_a_large_step_costs_its_flops() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    assert estimator.predict(BatchShape(1000, 0, 1)) == pytest.approx(80e-3 + 1e-3)


def test_kv_is_read_once() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    assert estimator.predict(BatchShape(1, 100_000, 1)) == pytest.approx(8e-3 + 1e-3 + 3.2768e-3)


def test_the_slowest_stage_counts() -> None:
    heavy = StageCost(16_000_000_000, 8_000_000_000, 32_768)
    estimator = RooflineEstimator(PROFILE, [STAGE, heavy, STAGE])
    assert estimator.predict(BatchShape(1, 0, 1)) == pytest.approx(17e-3)


def test_the_knee_is_where_flops_meet_the_weights() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    assert estimator.knee_tokens == 100
    shape = BatchShape(100, 0, 100)
    assert estimator.predict(shape) == pytest.approx(estimator.predict(BatchShape(1, 0, 1)))


def test_one_observation_corrects_all_of_its_stage() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE, STAGE])
    shape = BatchShape(64, 1000, 64)
    estimator.observe(shape, 1, 3 * estimator.predict_stage(shape, 1))
    far = BatchShape(4096, 0, 1)
    prior = RooflineEstimator(PROFILE, [STAGE]).predict(far)
    assert estimator.predict_stage(far, 1) == pytest.approx(3 * prior)
    assert estimator.predict_stage(far, 0) == pytest.approx(prior)


def test_a_tile_step_is_learned_where_it_is() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    low, high = BatchShape(16, 0, 16), BatchShape(256, 0, 256)
    prior_low, prior_high = estimator.predict(low), estimator.predict(high)
    for _ in range(50):
        estimator.observe(low, 0, prior_low)
        estimator.observe(high, 0, prior_high * 1.5)
    assert estimator.predict(low) == pytest.approx(prior_low, rel=1e-6)
    assert estimator.predict(high) == pytest.approx(prior_high * 1.5, rel=1e-6)


def test_one_hung_step_is_forgotten() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    shape = BatchShape(32, 0, 32)
    truth = estimator.predict(shape) * 1.2
    for _ in range(100):
        estimator.observe(shape, 0, truth)
    estimator.observe(shape, 0, truth * 10_000)
    assert estimator.predict(shape) < truth * 1.1


def test_the_error_ratio_falls_as_it_learns() -> None:
    generator = random.Random(0)
    estimator = RooflineEstimator(PROFILE, [STAGE])
    truth = RooflineEstimator(PROFILE, [StageCost(16_000_000_000, 9_000_000_000, 65_536)])
    errors = []
    for _ in range(400):
        shape = BatchShape(generator.randint(1, 500), generator.randint(0, 50_000), 8)
        estimator.observe(shape, 0, truth.predict(shape))
        errors.append(estimator.error_ratio)
    assert errors[0] > 0.4
    assert errors[-1] < 0.1


def test_steps_that_teach_nothing_change_nothing() -> None:
    estimator = RooflineEstimator(PROFILE, [STAGE])
    before = estimator.predict(BatchShape(1, 0, 1))
    estimator.observe(BatchShape(0, 0, 0), 0, 1.0)
    estimator.observe(BatchShape(5, 5, 5), 0, 0.0)
    assert estimator.predict(BatchShape(1, 0, 1)) == before
    assert estimator.error_ratio == 0.0


@pytest.mark.parametrize("profile", [CPU_PROFILE, GPU_PROFILE], ids=lambda profile: profile.name)
def test_predictions_are_finite_and_grow(profile: HardwareProfile) -> None:
    estimator = RooflineEstimator(profile, [STAGE])
    seconds = [estimator.predict(BatchShape(2**power, 0, 1)) for power in range(16)]
    assert all(math.isfinite(value) and value > 0 for value in seconds)
    assert seconds == sorted(seconds)
