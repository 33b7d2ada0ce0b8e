"""How a bucket is reached: endpoint, region and credentials, from the environment or from files.

Standard variables count, as for other S3 programs: ``AWS_ENDPOINT_URL_S3`` (or
``AWS_ENDPOINT_URL``), ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_SESSION_TOKEN``, ``AWS_ALLOW_HTTP``, ``AWS_VIRTUAL_HOSTED_STYLE_REQUEST``, ``AWS_CA_BUNDLE``,
and whatever else obstore's ``S3Store`` reads itself (web identity, container and instance roles).

Inside a pod the job's Secret (``spec.credentials.secretRef``) is mounted as a folder which
:data:`CREDENTIALS_FOLDER_VARIABLE` names: one file a key, each called as the variable it stands
for, of those in ``contract.credentials``. They win over the environment, and access keys are read
again every few minutes, so that a Secret can be renewed while the job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from obstore.store import S3Store as Bucket

from pipemax_worker.contract.credentials import S3_KEY_VARIABLES, S3_VARIABLES
from pipemax_worker.dataset.backoff import RetryPolicy
from pipemax_worker.dataset.s3_failures import REQUEST_ERRORS, classify_failure
from pipemax_worker.errors import OutputError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

CREDENTIALS_FOLDER_VARIABLE = "PIPEMAX_CREDENTIALS_FOLDER"
RETRY_SECONDS_VARIABLE = "PIPEMAX_STORE_RETRY_SECONDS"

_KEYS_READ_AGAIN = timedelta(minutes=5)
_CONNECT_TIMEOUT = timedelta(seconds=5)
_READ_TIMEOUT = timedelta(seconds=60)
_REQUEST_TIMEOUT = timedelta(seconds=300)
_DEFAULT_REGION = "us-east-1"
_TRUE_WORDS = ("1", "true", "yes", "on")


class S3Location(msgspec.Struct, frozen=True):
    """``s3://bucket/key``. ``key`` has no slash at its ends; it may be empty."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse_s3(uri: str) -> S3Location | None:
    """The location that an ``s3://`` URI names; None for every other text."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "s3":
        return None
    bucket, _, key = rest.partition("/")
    return S3Location(bucket, key.strip("/"))


class S3Settings(msgspec.Struct, frozen=True):
    """What a store needs to know of its server.

    endpoint             None: AWS's own for the region.
    read_access_keys     called every few minutes; None: obstore finds the keys by itself.
    """

    endpoint: str | None
    region: str
    allows_http: bool
    root_certificate: bytes | None
    read_access_keys: Callable[[], S3Credential] | None
    timeout: timedelta = _REQUEST_TIMEOUT
    read_timeout: timedelta = _READ_TIMEOUT

    @property
    def server(self) -> str:
        """The server as messages name it."""
        return self.endpoint or f"AWS S3 in {self.region}"

    def config(self) -> S3Config:
        """The endpoint goes under the name that wins over obstore's own look at the environment."""
        config: S3Config = {"region": self.region, "disable_bulk_delete": True}
        if self.endpoint is not None:
            config["aws_endpoint_url_s3"] = self.endpoint
        return config

    def client_options(self) -> ClientConfig:
        options: ClientConfig = {
            "allow_http": self.allows_http,
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": self.read_timeout,
            "timeout": self.timeout,
        }
        if self.root_certificate is not None:
            options["root_certificate"] = self.root_certificate
        return options


def read_settings(environment: Mapping[str, str]) -> S3Settings:
    """Settings from an environment. An endpoint that starts with ``http://`` is taken at its word.

    Raises OutputError if the folder of credentials or the CA bundle cannot be read.
    """
    folder = environment.get(CREDENTIALS_FOLDER_VARIABLE)
    variables = {**environment, **(_read_folder(folder) if folder else {})}
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or None
    is_http = endpoint is not None and urlsplit(endpoint).scheme == "http"
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    return S3Settings(
        endpoint=endpoint.rstrip("/") if endpoint else None,
        region=region,
        allows_http=is_http or variables.get("AWS_ALLOW_HTTP", "").lower() in _TRUE_WORDS,
        root_certificate=None if is_http else _read_certificate(variables.get("AWS_CA_BUNDLE")),
        read_access_keys=_key_reader(environment, folder),
    )


def open_bucket(location: S3Location, settings: S3Settings) -> Bucket:
    """obstore's store for the bucket, its own retries off. Touches nothing. Raises OutputError."""
    try:
        return Bucket(
            location.bucket,
            config=settings.config(),
            client_options=settings.client_options(),
            retry_config={"max_retries": 0},
            credential_provider=settings.read_access_keys,
        )
    except REQUEST_ERRORS as error:
        raise OutputError(
            f"{location}: the store's settings are refused: {classify_failure(error)}; "
            "check the AWS_* variables"
        ) from error


def read_retry_policy(environment: Mapping[str, str]) -> RetryPolicy:
    """The default, or as :data:`RETRY_SECONDS_VARIABLE` says. Raises OutputError."""
    text = environment.get(RETRY_SECONDS_VARIABLE)
    if not text:
        return RetryPolicy()
    try:
        return RetryPolicy(max_seconds=float(text))
    except ValueError:
        raise OutputError(f"{RETRY_SECONDS_VARIABLE}={text!r}: expected seconds") from None


def _key_reader(
    environment: Mapping[str, str], folder: str | None
) -> Callable[[], S3Credential] | None:
    """Keys from the folder if it has them, else from the environment: never half from each.

    Raises OutputError where one of two is missing.
    """
    if folder is not None and S3_KEY_VARIABLES[0] in _read_folder(folder):
        _credential(_read_folder(folder))
        return lambda: _credential(_read_folder(folder))
    keys = {name: environment[name] for name in S3_KEY_VARIABLES if environment.get(name)}
    if not keys:
        return None
    _credential(keys)
    return lambda: _credential(keys)


def _credential(variables: Mapping[str, str]) -> S3Credential:
    missing = [name for name in S3_KEY_VARIABLES[:2] if not variables.get(name)]
    if missing:
        raise OutputError(f"S3 credentials: {missing[0]} is missing; set it beside the other key")
    return {
        "access_key_id": variables["AWS_ACCESS_KEY_ID"],
        "secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
        "token": variables.get("AWS_SESSION_TOKEN") or None,
        "expires_at": datetime.now(UTC) + _KEYS_READ_AGAIN,
    }


def _read_folder(folder: str) -> dict[str, str]:
    """The store's variables in a mounted Secret; what else it holds is not looked at."""
    try:
        files = [path for path in Path(folder).iterdir() if path.name in S3_VARIABLES]
        return {path.name: path.read_text().strip() for path in files if path.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{folder}: the credentials cannot be read: {error}; {CREDENTIALS_FOLDER_VARIABLE} "
            "must name a folder with a file for each variable, such as AWS_ACCESS_KEY_ID"
        ) from error


def _read_certificate(path: str | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OutputError(f"AWS_CA_BUNDLE={path}: cannot be read: {error}") from error
