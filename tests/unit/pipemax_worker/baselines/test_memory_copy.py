"""The meter of copies, on the CPU."""

import json

import pytest
import torch
from pipemax_worker.baselines import memory_copy


def test_a_copy_has_a_speed() -> None:
    speeds = memory_copy.measure(torch.device("cpu"), num_bytes=1 << 20)
    assert speeds["name"] == "cpu"
    assert 1e7 < float(speeds["device"]) < 1e13
    assert set(speeds) == {"name", "device"}


def test_it_prints_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_copy, "CPU_BYTES", 1 << 20)
    assert memory_copy.main(["cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] > 0
