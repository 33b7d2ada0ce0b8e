"""Errors of the hub library in our words, where no server is needed to have them."""

from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from pipemax_worker.errors import ModelNotFoundError
from pipemax_worker.model_store.hub_failures import hub_errors, translate_hub_error
from pipemax_worker.model_store.models import HubModel
from pipemax_worker.model_store.source import SourceUnavailableError

MODEL = HubModel("models/tinny", missing_path=Path("/jobs/models/tinny"))


def test_the_base_of_connection_errors_is_known_in_every_version_of_the_library() -> None:
    assert HfHubHTTPError.__bases__[0].__name__ == "HTTPError"


def test_the_librarys_own_offline_mode() -> None:
    found = translate_hub_error(OfflineModeIsEnabled("offline"), MODEL, "http://hub")
    assert isinstance(found, ModelNotFoundError)
    assert "HF_HUB_OFFLINE" in str(found)


def test_a_misspelt_path_is_named_although_it_reads_like_a_hub_id() -> None:
    found = translate_hub_error(ConnectionError("no route"), MODEL, "http://hub")
    assert isinstance(found, SourceUnavailableError)
    assert "no route" in str(found)
    assert "nor is there a folder /jobs/models/tinny" in str(found)


def test_our_own_errors_pass() -> None:
    with (
        pytest.raises(ModelNotFoundError, match="ours"),
        hub_errors(MODEL, "http://hub"),
    ):
        raise ModelNotFoundError("ours")
