"""`pipemax top` beside a real run: what it shows is what the run does."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

from kit.jobs import JobFolder, text_lines
from kit.processes import RunningJob


def test_a_real_worker_in_a_frame(job: JobFolder) -> None:
    job.write_input(text_lines(300))
    job.write(
        {
            **{"engine.maxNumRequests": 2, "engine.lookAhead": 16},
            "sampling": {"temperature": 0, "maxTokens": 40},
            "parallelism.stagesPerNode": 2,
        }
    )
    with RunningJob(job, hold="requests", at=4) as run:
        run.wait_for_requests(4)
        command = [sys.executable, "-m", "pipemax_worker.cli.main", "top", "--once", run.url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        progress = run.progress()
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 75
    frame = done.stdout
    assert frame.startswith(f"reviews  Running  {run.url}\n")
    number = re.search(r"(\d+) of about \d+ requests", frame)
    assert number is not None
    assert 4 <= int(number[1]) <= progress["requests"]["done"]
    generated = re.search(r"(\d+) generated, \d+ computed of prompts", frame)
    assert generated is not None
    assert int(generated[1]) > 0
    for stage in ("0", "1"):
        shares = re.search(rf"^{stage} .* (\d+)% +(\d+)% +(\d+)%$", frame, re.MULTILINE)
        assert shares is not None
        assert 98 <= sum(map(int, shares.groups())) <= 102
    assert re.search(r"^device .* \d+% +\d+ +\d+ +\d+$", frame, re.MULTILINE)
    assert "energy" not in frame, "there is no GPU"
