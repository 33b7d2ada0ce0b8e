"""What a Secret may say to a worker: the operator hands over these variables, and no others.

A variable can do more than its name tells: some make an interpreter or a loader run code
(``PYTHONSTARTUP``, ``LD_PRELOAD``, ``PATH``). Whoever may write a Secret is to say where a store
is and with which keys, and nothing else. Those here are data to all who read them.
"""

from __future__ import annotations

S3_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Of one pair of access keys; the token of a temporary one."""

S3_VARIABLES = (
    *S3_KEY_VARIABLES,
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ALLOW_HTTP",
    "AWS_CA_BUNDLE",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_REQUEST_PAYER",
    "AWS_SKIP_SIGNATURE",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
)
"""Read by the S3 store: by us, and those from ``AWS_VIRTUAL_...`` on by obstore itself.

Left out of what obstore reads: roles by web identity or by a container's address, which send a
file of the pod to an address that the Secret would name.
"""

HUB_VARIABLES = ("HF_TOKEN", "HF_ENDPOINT")
"""Read where models are downloaded from a hub."""

CREDENTIAL_VARIABLES = (*S3_VARIABLES, *HUB_VARIABLES)
"""The keys of ``spec.credentials.secretRef`` that reach a worker."""
