"""The InferenceJob: its fields, bounds and defaults, the places it names, and its errors.

The one source of validation, of the CRD's schema and of docs/inferencejob.md. Knows the file, not
the machine: whether a model or an input exists is the runner's question.
"""

from pipemax_worker.contract.credentials import CREDENTIAL_VARIABLES
from pipemax_worker.job.inference_job import API_VERSION, KIND, InferenceJob, Metadata
from pipemax_worker.job.load import dump_job, load_job, parse_job
from pipemax_worker.job.places import (
    MOUNT_ROOT,
    Place,
    PlaceKind,
    claim_mount_path,
    mount_path,
    parse_place,
)
from pipemax_worker.job.resolve import (
    HOST_PATH_MOUNT,
    NVME_HOST_PATH_MOUNT,
    HubId,
    S3Folder,
    resolve_model,
    resolve_nvme,
    resolve_place,
)
from pipemax_worker.job.schema import json_schema
from pipemax_worker.job.spec import NVME_WRITE_BYTES_PER_SECOND, InferenceJobSpec

__all__ = [
    "API_VERSION",
    "CREDENTIAL_VARIABLES",
    "HOST_PATH_MOUNT",
    "KIND",
    "MOUNT_ROOT",
    "NVME_HOST_PATH_MOUNT",
    "NVME_WRITE_BYTES_PER_SECOND",
    "HubId",
    "InferenceJob",
    "InferenceJobSpec",
    "Metadata",
    "Place",
    "PlaceKind",
    "S3Folder",
    "claim_mount_path",
    "dump_job",
    "json_schema",
    "load_job",
    "mount_path",
    "parse_job",
    "parse_place",
    "resolve_model",
    "resolve_nvme",
    "resolve_place",
]
