import json

import pytest
import torch
from pipemax_worker.baselines import matrix_rate


def test_a_rate_is_measured_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix_rate.measure(torch.device("cpu"), size=32, repeats=2) > 0.0
    monkeypatch.setattr(matrix_rate, "measure", lambda device: 5.0)
    assert matrix_rate.main(["cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == {"flops": 5.0}
