"""What a Secret may say: each name is read by somebody, told to users, and runs nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pipemax_worker.contract import credentials
from pipemax_worker.contract.credentials import CREDENTIAL_VARIABLES
from pipemax_worker.dataset import s3_settings
from pipemax_worker.dataset.s3_settings import open_bucket, parse_s3, read_settings
from pipemax_worker.job.scheduling import CredentialsSpec
from pipemax_worker.model_store import environment as hub_settings

ROOT = Path(__file__).parents[4]
READ_BY_OBSTORE = {
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_REQUEST_PAYER",
    "AWS_SKIP_SIGNATURE",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
}
SSE = "AWS_SERVER_SIDE_ENCRYPTION"


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "BROWSER", "BASH_ENV"),
        *("PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTHONBREAKPOINT"),
        *("TRITON_CACHE_DIR", "CC", "CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "HF_HOME"),
        *("AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *("HTTPS_PROXY", "SSL_CERT_FILE", "PIPEMAX_CREDENTIALS_FOLDER", "PIPEMAX_TERMINATION_LOG"),
    ],
)
def test_what_runs_code_or_reads_files_is_not_among_them(name: str) -> None:
    assert name not in CREDENTIAL_VARIABLES


def test_each_is_a_stores_or_a_hubs_own() -> None:
    assert len(set(CREDENTIAL_VARIABLES)) == len(CREDENTIAL_VARIABLES)
    assert all(re.fullmatch(r"(AWS|HF)_[A-Z0-9_]+", name) for name in CREDENTIAL_VARIABLES)


def test_each_is_read_by_our_own_code_or_by_obstore() -> None:
    """The list is no wish: whoever takes the last reader away takes the name away."""
    texts = [Path(str(module.__file__)).read_text() for module in (s3_settings, hub_settings)]
    read = {name for name in CREDENTIAL_VARIABLES if any(f'"{name}"' in text for text in texts)}
    assert {*read, *credentials.S3_KEY_VARIABLES, *READ_BY_OBSTORE} == set(CREDENTIAL_VARIABLES)
    assert not read & READ_BY_OBSTORE


def test_users_are_told_of_each_and_of_no_others() -> None:
    told = CredentialsSpec.model_fields["secret_ref"].description or ""
    own = ("PIPEMAX_CREDENTIALS_FOLDER",)
    assert {*re.findall(r"`([A-Z0-9_]+)`", told)} == {*CREDENTIAL_VARIABLES, *own}
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [name for name in CREDENTIAL_VARIABLES if f"`{name}`" not in operations]
    assert not missing


class _Listener(BaseHTTPRequestHandler):
    """Takes every object, and keeps the last request."""

    path_seen = ""
    headers_seen: dict[str, str] = {}  # noqa: RUF012

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        _Listener.path_seen = self.path
        _Listener.headers_seen = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listener)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("variables", "header", "value"),
    [
        ({"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}, ":path", "/key"),
        ({}, ":path", "/bucket/key"),
        ({"AWS_REQUEST_PAYER": "true"}, "x-amz-request-payer", "requester"),
        ({"AWS_SKIP_SIGNATURE": "true"}, "authorization", None),
        ({SSE: "aws:kms"}, "x-amz-server-side-encryption", "aws:kms"),
        (
            {SSE: "aws:kms", "AWS_SSE_KMS_KEY_ID": "k"},
            "x-amz-server-side-encryption-aws-kms-key-id",
            "k",
        ),
        (
            {SSE: "aws:kms", "AWS_SSE_BUCKET_KEY_ENABLED": "true"},
            "x-amz-server-side-encryption-bucket-key-enabled",
            "true",
        ),
        (
            {SSE: "sse-c", "AWS_SSE_CUSTOMER_KEY_BASE64": "YWFh"},
            "x-amz-server-side-encryption-customer-key",
            "YWFh",
        ),
    ],
)
def test_what_obstore_reads_itself_is_read(
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    header: str,
    value: str | None,
) -> None:
    assert {*variables} <= {*CREDENTIAL_VARIABLES}
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    location = parse_s3("s3://bucket")
    assert location is not None
    open_bucket(location, read_settings({"AWS_ENDPOINT_URL": endpoint, **keys})).put("key", b"1")
    seen = {":path": _Listener.path_seen, **_Listener.headers_seen}
    assert seen.get(header) == value
