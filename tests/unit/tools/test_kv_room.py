"""The arithmetic of issue 6: tokens of KV on the ground of four 24 GB cards."""

from __future__ import annotations

from pathlib import Path

import kv_room
import pytest

SHAPES = Path(__file__).parents[3] / "tools/shapes"


def test_the_ground(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv_room.main([str(SHAPES / "Qwen2.5-32B")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-5:-3] for line in lines] == [
        ["15/17/17/15", "115,260"],
        ["17/16/16/15", "115,260"],
        ["17-/16/16/15", "124,384"],
        ["16/16/16/16", "131,404"],
    ]


def test_kv_of_half_the_size_is_twice_as_many(capsys: pytest.CaptureFixture[str]) -> None:
    kv_room.main([str(SHAPES / "Mixtral-8x7B"), "--gpus", "8", "--kv-dtype", "fp8_e4m3"])
    narrow = int(capsys.readouterr().out.split()[-4].replace(",", ""))
    kv_room.main([str(SHAPES / "Mixtral-8x7B"), "--gpus", "8"])
    wide = int(capsys.readouterr().out.split()[-4].replace(",", ""))
    assert narrow == pytest.approx(2 * wide, rel=0.01)
