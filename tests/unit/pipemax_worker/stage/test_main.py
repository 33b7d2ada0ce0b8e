"""What a stage says of its errors, and how it sets up its device."""

import sys

import msgspec
import pytest
import torch
from kit.pipeline_driver import make_configs, make_settings
from pipemax_worker.errors import KVTierError, PipemaxError, error_from_reason
from pipemax_worker.stage.main import SWITCH_INTERVAL_SECONDS, describe_failure, set_up_device


def test_an_error_of_ours_crosses_as_itself() -> None:
    failure = describe_failure(3, KVTierError("the disk is full"))
    rebuilt = error_from_reason(failure.reason, failure.message)
    assert (failure.stage, type(rebuilt), str(rebuilt)) == (3, KVTierError, "the disk is full")


@pytest.mark.parametrize("error", [ValueError("what"), torch.OutOfMemoryError("no 2 GiB")])
def test_any_other_error_is_a_dead_stage_with_its_name(error: Exception) -> None:
    failure = describe_failure(1, error)
    rebuilt: PipemaxError = error_from_reason(failure.reason, failure.message)
    assert rebuilt.exit_code == 69
    assert failure.message.startswith(f"stage 1: {type(error).__name__}: {error}")
    assert ("lower engine.memoryFraction" in failure.message) == ("GiB" in str(error))


def test_threads_are_those_of_the_configuration() -> None:
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    config = msgspec.structs.replace(make_configs(make_settings(1))[0], num_threads=3)
    try:
        assert set_up_device(config) == torch.device("cpu")
        assert torch.get_num_threads() == 3
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_SECONDS)
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(interval)
