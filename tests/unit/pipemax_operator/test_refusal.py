"""A right that lacks is told once, in the API server's words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pipemax_operator.process_settings import ProcessSettings
from pipemax_operator.refusal import build_refused_status

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WORDS = 'User "operator" cannot patch resource "configmaps"'


def document(**status: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 3}, "status": status}


def test_it_is_told_once_and_keeps_what_was_known() -> None:
    refused = build_refused_status(document(attempt=2), WORDS, NOW)
    assert refused is not None
    status, event = refused
    assert (status["phase"], status["attempt"]) == ("Pending", 2)
    condition = status["conditions"][0]
    assert (condition["type"], condition["status"]) == ("Progressing", "False")
    assert condition["reason"] == event.reason == "Forbidden"
    assert WORDS in condition["message"]
    assert "templates/rbac.yaml" in event.message
    assert event.is_warning
    assert build_refused_status(document(**status), WORDS, NOW) is None
    assert build_refused_status(document(**status), "another right", NOW) is not None


def test_the_phase_of_a_job_that_runs_stays() -> None:
    refused = build_refused_status(document(phase="Running"), WORDS, NOW)
    assert refused is not None
    assert refused[0]["phase"] == "Running"


def test_the_process_reads_its_settings_from_the_environment() -> None:
    given = {"PIPEMAX_NAMESPACES": "a,b", "PIPEMAX_LEASE": "ops/pipemax", "PIPEMAX_IDENTITY": ""}
    settings = ProcessSettings.from_environment(given)
    assert settings.namespaces == ("a", "b")
    assert (settings.lease, settings.lease_seconds, settings.metrics_port) == ("ops/pipemax", 15, 0)
    assert settings.identity != ProcessSettings.from_environment(given).identity
    with pytest.raises(ValueError, match="must be namespace/name, not 'pipemax'"):
        ProcessSettings.from_environment({"PIPEMAX_LEASE": "pipemax"})
