"""What the worker's exit codes mean to the cluster. Pure.

They are ``os.EX_*``, as ``pipemax_worker.errors`` documents them; a test holds the two together.
"""

from __future__ import annotations

# Trying again cannot help: the job file or its input is wrong, or too much has failed.
PERMANENT = (64, 65, 78)

# The model or the input is not there, or of no use: on this node. Others may have them, where they
# are on nodes' own disks.
NOT_FOUND = (66,)

# Stopped on request, KV parked: whoever asked for it starts it again.
STOPPED = 75

# The machine's fault: another node may do better.
NODE_FAULTS = (69, 71, 72, 74)

# The container runtime has come back, its node has mostly been restarted, and nobody knows how the
# worker ended. No worker ends so by itself.
NODE_RESTARTED = 255

# The machine cannot run the job, as its worker found before the model was loaded.
PREFLIGHT_FAILED = 71

# A GPU has failed for good: later pods of the job go elsewhere.
GPU_LOST = 72
