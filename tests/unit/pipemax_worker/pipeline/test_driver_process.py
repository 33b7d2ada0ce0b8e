"""The driver's own end: in a process of its own, without torch, drained, forgotten or killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from kit.fake_model import expected_tokens
from kit.process_life import is_running, wait_until_gone

DRIVER = """
    import sys
    sys.path[:0] = {paths!r}

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("torch", "transformers"):
                raise AssertionError(f"the driver imports {{name}}")

    sys.meta_path.insert(0, NoTorch())
    print("main", flush=True)  # a stage that imports __main__ again would print it too
    from pathlib import Path
    from kit.pipeline_driver import *
    from pipemax_worker.pipeline.executor import PipelineExecutor

    settings = make_settings(2, folder=Path({folder!r}))
    executor = PipelineExecutor(make_configs(settings), entry_point="kit.fake_stage:main")
    executor.start()
    events = run_messages(executor, static_messages([[1, 2, 3]], 4, 1))
    print(sampled_tokens(events)[0], flush=True)
    print(*executor.process_ids, flush=True)
    {end}
"""


def run_driver(folder: Path, end: str) -> subprocess.Popen[str]:
    """A driver in a process of its own, without a ``__main__`` guard and without torch."""
    script = folder / "driver.py"
    paths = [path for path in sys.path if path]
    script.write_text(
        textwrap.dedent(DRIVER).format(paths=paths, folder=str(folder), end=end), encoding="utf-8"
    )
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)


def read_driver(driver: subprocess.Popen[str]) -> tuple[int, ...]:
    """Check its output and return its stages' process ids."""
    assert driver.stdout is not None
    assert driver.stdout.readline() == "main\n"
    assert driver.stdout.readline() == f"{expected_tokens([1, 2, 3], 4, 2)}\n"
    return tuple(map(int, driver.stdout.readline().split()))


def test_a_driver_without_torch_drains_cleanly(tmp_path: Path) -> None:
    driver = run_driver(tmp_path, "executor.drain()")
    process_ids = read_driver(driver)
    rest, _ = driver.communicate(timeout=60)
    assert (driver.returncode, rest) == (0, "")
    wait_until_gone(process_ids)
    assert [path.name for path in tmp_path.iterdir()] == ["driver.py"]


def test_a_driver_that_forgets_to_drain_still_ends(tmp_path: Path) -> None:
    """Stages ignore SIGTERM; multiprocessing alone would wait for them forever."""
    driver = run_driver(tmp_path, "sys.exit(5)")
    process_ids = read_driver(driver)
    driver.communicate(timeout=60)
    assert driver.returncode == 5
    wait_until_gone(process_ids)


def test_stages_and_their_files_go_with_a_killed_driver(tmp_path: Path) -> None:
    driver = run_driver(tmp_path, "import time; time.sleep(600)")
    process_ids = read_driver(driver)
    assert all(map(is_running, process_ids))
    driver.kill()
    driver.communicate(timeout=60)
    wait_until_gone(process_ids)
    assert [path.name for path in tmp_path.iterdir()] == ["driver.py"]
