"""The driver's side of a baseline process, with a small stand-in for the other engine."""

import os
from pathlib import Path

import pytest
from pipemax_worker.errors import StageDiedError
from pipemax_worker.runner import bench_baseline
from pipemax_worker.runner.bench_baseline import Order, open_baseline
from pipemax_worker.runner.bench_work import BenchWork

WORK = BenchWork(((1, 2), (3,)), (1, 2))

STAND_IN = """
import json, os, sys
work = json.load(open(sys.argv[2]))
if sys.argv[1] == "broken":
    sys.exit("cannot load the model")
def answer(seconds=0.0, token_ids=(), error=None):
    print(json.dumps({"seconds": seconds, "token_ids": token_ids, "error": error}), flush=True)
answer()
for line in sys.stdin:
    order = json.loads(line)
    if order["method"] == "die":
        sys.exit("out of memory")
    if order["method"] == "fail":
        answer(error="ValueError: no")
    else:
        print("chatter", file=sys.stderr)
        assert os.environ["OMP_NUM_THREADS"] == sys.argv[3]
        answer(float(sys.argv[3]), [[n] for n in work["max_tokens"]])
"""


@pytest.fixture(autouse=True)
def fixture_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(bench_baseline, "MODULES", {"other": "stand_in"})
    monkeypatch.setattr(bench_baseline, "available_cores", lambda: 3)


def test_orders_are_answered_one_after_the_other() -> None:
    with open_baseline("other", Path("model"), WORK) as baseline:
        for _ in range(2):
            answer = baseline.run(Order("padded", batch_size=4))
            assert answer.seconds == 3.0  # it was told of all cores
            assert answer.token_ids == ((1,), (2,))
            assert answer.error is None
        assert baseline.run(Order("fail")).error == "ValueError: no"
        assert baseline.run(Order("padded")).error is None


def test_a_process_that_cannot_start_or_dies_says_why() -> None:
    with (
        pytest.raises(StageDiedError, match="exit code 1:\ncannot load the model"),
        open_baseline("other", Path("broken"), WORK),
    ):
        pass
    with open_baseline("other", Path("model"), WORK) as baseline:
        with pytest.raises(StageDiedError, match="out of memory"):
            baseline.run(Order("die"))
        with pytest.raises(StageDiedError, match="out of memory"):
            baseline.run(Order("padded"))


def test_the_process_is_gone_when_the_block_is_left() -> None:
    with open_baseline("other", Path("model"), WORK) as baseline:
        process = baseline._process
        os.kill(process.pid, 0)
    assert process.returncode is not None


def test_an_order_is_named_by_what_it_sets() -> None:
    assert Order("padded", batch_size=4, order="total").name == "padded batch_size=4 order=total"
    assert Order("continuous").name == "continuous"
