"""Strings that Kubernetes or a model's caller bounds. Each pattern also exists in words."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
RESOURCE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
ABSOLUTE_PATH_PATTERN = r"^/[^\x00]*$"
NO_SPACE_PATTERN = r"^\S+$"

PATTERN_WORDS = {
    DNS_LABEL_PATTERN: (
        "lower-case letters, digits and '-', with a letter or digit at both ends, such as my-job"
    ),
    DNS_SUBDOMAIN_PATTERN: (
        "lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    ),
    RESOURCE_PATTERN: "an extended resource such as nvidia.com/gpu",
    ABSOLUTE_PATH_PATTERN: "an absolute path, such as /mnt/nvme/pipemax",
    NO_SPACE_PATTERN: "a name without spaces",
}

# The names of what the operator makes end in suffixes; a pod's host name ends at 63 characters.
JobName = Annotated[str, StringConstraints(max_length=52, pattern=DNS_LABEL_PATTERN)]
Namespace = Annotated[str, StringConstraints(max_length=63, pattern=DNS_LABEL_PATTERN)]
ObjectName = Annotated[str, StringConstraints(max_length=253, pattern=DNS_SUBDOMAIN_PATTERN)]
ResourceName = Annotated[str, StringConstraints(max_length=253, pattern=RESOURCE_PATTERN)]
AbsolutePath = Annotated[str, StringConstraints(max_length=1024, pattern=ABSOLUTE_PATH_PATTERN)]
ModelName = Annotated[str, StringConstraints(max_length=256, pattern=NO_SPACE_PATTERN)]
ImageName = Annotated[str, StringConstraints(max_length=512, pattern=NO_SPACE_PATTERN)]
