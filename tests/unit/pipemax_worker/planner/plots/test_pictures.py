import subprocess
import sys
from pathlib import Path

import pytest
from kit.simulations import make_settings
from pipemax_worker.errors import OutputError, PreflightError
from pipemax_worker.planner.plots.png import middle_rounds, write_pictures
from pipemax_worker.planner.plots.terminal import block, draw_timeline
from pipemax_worker.planner.timeline import Timeline, record
from pipemax_worker.planner.workload import Workload

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    settings = make_settings(
        policy="pipemax", device=40, host=400, look_ahead=16, link_bytes_per_second=1e6
    )
    return record(settings, Workload(((20, 12),) * 40))[1]


def test_a_line_for_each_stage_link_and_tier_that_is_used(timeline: Timeline) -> None:
    lines = [line.plain for line in draw_timeline(timeline)]
    labels = [line[:13].strip() for line in lines[1:]]
    assert labels[:4] == ["stage 0", "stage 1", "stage 2", "stage 3"]
    assert labels[4:] == ["host > GPU", "GPU > host", "KV on GPUs", "KV on host"]
    assert max(map(len, lines)) < 80
    assert all(line.endswith("%") for line in lines[1:])


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, " "), (0.001, "▁"), (0.5, "▄"), (0.999, "▇"), (1.0, "█"), (1.5, "█")],
)
def test_something_is_never_nothing_nor_a_part_all(share: float, expected: str) -> None:
    assert block(share) == expected


def test_pictures_are_written(timeline: Timeline, tmp_path: Path) -> None:
    paths = write_pictures(timeline, "a title", tmp_path / "pictures")
    assert [path.name for path in paths] == ["timeline.png", "tiers.png"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_rounds_of_the_middle_are_a_part_of_the_run(timeline: Timeline) -> None:
    begin, end = middle_rounds(timeline)
    assert 0.0 < begin < end <= timeline.seconds
    assert middle_rounds(Timeline(1, 0.0, (), (), ())) == (0.0, 1e-9)


def test_a_file_in_the_way_is_named(timeline: Timeline, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken: cannot be written"):
        write_pictures(timeline, "a title", tmp_path / "taken")


def test_without_matplotlib_it_says_what_to_install(
    timeline: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PreflightError, match="pipemax\\[plots\\]"):
        write_pictures(timeline, "a title", tmp_path)


def test_matplotlib_is_imported_for_pictures_only() -> None:
    code = (
        "import sys, pipemax_worker.cli.plan, pipemax_worker.planner.plots.png;"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
