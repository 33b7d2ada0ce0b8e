"""The sampler as a real process, over GPUs that draw 100 W each; their UUIDs are the arguments.

Without arguments that begin with GPU-, one of: ``hang`` says one line and no more; ``no-driver``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from kit.fake_nvml import SUCCESS, FakeGpu, FakeNvml, nvml_of
from pipemax_worker.telemetry import nvml_sampler
from pynvml import NVML_ERROR_DRIVER_NOT_LOADED

WATTS = 100.0


def main(arguments: list[str]) -> None:
    uuids = [one for one in arguments if one.startswith("GPU-")]
    gpus = [FakeGpu(uuid, WATTS) for uuid in uuids]
    start = time.monotonic()

    def draw() -> None:
        for gpu in gpus:
            gpu.energy_joules = 5000.0 + WATTS * (time.monotonic() - start)

    fault = NVML_ERROR_DRIVER_NOT_LOADED if "no-driver" in arguments else SUCCESS
    library = FakeNvml(*gpus, init_error=fault)
    library.before_each = draw
    seconds = 3600.0 if "hang" in arguments else 0.05
    with nvml_of(library) as nvml:
        nvml_sampler.run(uuids, sys.stdout, lambda: nvml, lambda _: time.sleep(seconds))
    sys.stdout = None


if __name__ == "__main__":
    main(sys.argv[1:])
