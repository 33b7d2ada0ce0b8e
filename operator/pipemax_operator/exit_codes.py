"""What the worker's exit codes mean to the cluster. Pure.

They are ``os.EX_*``, as ``pipemax_worker.errors`` documents them; a test holds the two together.
"""

from __future__ import annotations

# Trying again cannot help: the job file, its input or its model is wrong, or too much has failed.
PERMANENT = (64, 65, 66, 78)

# Stopped on request, KV parked: whoever asked for it starts it again.
STOPPED = 75

# The machine's fault: another node may do better.
NODE_FAULTS = (69, 71, 72, 74)

# The machine cannot run the job, as its worker found before the model was loaded.
PREFLIGHT_FAILED = 71

# A GPU has failed for good: later pods of the job go elsewhere.
GPU_LOST = 72
